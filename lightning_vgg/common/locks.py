"""Locks between processes; the system frees the lock of a process that ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock


def file_lock(path: Path, timeout: float = -1, on_acquired: Callable[[int], None] | None = None) -> FileLock:
    """The lock of a file, which is created if necessary.

    Never one of filelock's soft locks: they outlive a process that is killed.

    Args:
        path: of the file.
        timeout: seconds to wait for another process; -1: without end.
        on_acquired: gets the open file's descriptor.
    """
    return FileLock(path, timeout, fallback_to_soft=False, on_acquired=on_acquired)


@contextmanager
def transient_lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file that is removed afterwards; it stays where the process is killed.

    Raises:
        filelock.Timeout: another process holds it.
    """
    with file_lock(path, timeout):
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows removes no open file; there filelock does it, once it is closed
                path.unlink(missing_ok=True)
