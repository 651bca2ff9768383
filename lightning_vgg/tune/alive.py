"""Which worker is alive, and whose turn it is: locked files in the study's folder.

The system frees the lock of a process that ends, however it ends. A process number would not do: after a restart, and
in every container, the same numbers come again.
"""

from __future__ import annotations

import fcntl
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until this process alone holds ``path``."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alive(folder: Path) -> Iterator[str]:
    """The name of a new worker, which is alive until the block or the process ends."""
    path = folder / "workers" / f"{socket.gethostname()}_{uuid.uuid4().hex}"
    path.parent.mkdir(exist_ok=True)
    with locked(path):
        try:
            yield path.name
        finally:
            path.unlink()


def is_alive(folder: Path, worker: str) -> bool | None:
    """None for a worker that is not of this folder."""
    try:
        with (folder / "workers" / worker).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return True
    return False
