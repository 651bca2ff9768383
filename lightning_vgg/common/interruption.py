"""SIGTERM and Ctrl-C: at once, or, while a training runs, after its next checkpoint. A second one always at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal ended the command; the exit status is 128 + its number, as a shell has it: 143 or 130."""

    def __init__(self, number: int, checkpoint: str | None = None) -> None:
        self.number = number
        self.checkpoint = checkpoint
        super().__init__(number)

    @property
    def status(self) -> int:
        return 128 + self.number

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        if self.checkpoint is None:
            return f"stopped by {name}"
        return f"stopped by {name} after writing {self.checkpoint}: the same command with --ckpt_path last continues"


class Signals:
    """Which signal came. Python runs handlers between two instructions of the main thread, so a flag is enough.

    Attributes:
        received: the signal that has not been acted on yet; 0 for none.
        waits: whether somebody will act on it.
    """

    def __init__(self) -> None:
        self.received = 0
        self.waits = False

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # no other may; a training in a thread of somebody's program is theirs to stop
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a first signal is only recorded."""
        self.waits = True
        try:
            yield
        finally:
            self.waits, self.received = False, 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.waits or self.received:
            raise Interrupted(number)
        self.received = number


SIGNALS = Signals()
"""Those of this process: handlers belong to the whole of it."""
