"""Images that are not on the device: a thread reads the next batch while the device trains on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from lightning_vgg.images.stored import Images, MappedFile

Batch = TypeVar("Batch")


class ReadAhead:
    """Images or features (N, ...) in a file or in the host's memory, of which batches are read. All of it on the host.

    Args:
        rows: all of them.
        pinned: whether batches are put into pinned memory.
    """

    def __init__(self, rows: Images | MappedFile, pinned: bool) -> None:
        self._rows = rows
        self._pinned = pinned
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._expected: deque[tuple[Tensor, Future[Tensor]]] = deque()

    def expect(self, index: Tensor) -> None:
        """Start to read the rows of a later batch, int64 (B,)."""
        self._expected.append((index, self._thread.submit(self._read, index)))

    def take(self, index: Tensor) -> Tensor:
        """The rows (B, ...)."""
        while self._expected:
            expected, found = self._expected.popleft()
            if torch.equal(expected, index):
                return found.result()
        return self._read(index)

    def _read(self, index: Tensor) -> Tensor:
        found = torch.from_numpy(self._rows[index.numpy()])
        return found.pin_memory() if self._pinned else found


def announced(batches: Iterable[Batch], announce: Callable[[Batch], None]) -> Iterator[Batch]:
    """The batches, each of them announced before the one in front of it is given away."""
    for current, later in pairwise(chain(batches, [None])):
        if later is not None:
            announce(later)
        assert current is not None
        yield current
