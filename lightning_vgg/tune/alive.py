"""Which worker is alive: the one that holds the lock of its file in the study's folder.

A process number would not do: after a restart, and in every container, the same numbers come again.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from lightning_vgg.common.locks import transient_lock


@contextmanager
def alive(folder: Path) -> Iterator[str]:
    """The name of a new worker, which is alive until the block or the process ends."""
    path = folder / "workers" / f"{socket.gethostname()}_{uuid.uuid4().hex}"
    with transient_lock(path):
        yield path.name


def is_alive(folder: Path, worker: str) -> bool | None:
    """None for a worker that is not of this folder."""
    try:
        with (folder / "workers" / worker).open("r+") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return None
