"""Images that are not on the device: a thread reads the next batch while the device trains on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from lightning_vgg.images.stored import Images

Batch = TypeVar("Batch")


class ReadAhead:
    """uint8 images (N, S, S, C) in a file or in the host's memory, of which batches are brought to a device."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self._images = images
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._expected: deque[tuple[Tensor, Future[Tensor]]] = deque()

    def expect(self, index: Tensor) -> None:
        """Start to read the images of a later batch, int64 (B,)."""
        self._expected.append((index, self._thread.submit(self._read, index)))

    def take(self, index: Tensor) -> Tensor:
        """The images, uint8 (B, S, S, C) on the device."""
        while self._expected:
            expected, pixels = self._expected.popleft()
            if torch.equal(expected, index.cpu()):
                return self._on_device(pixels.result())
        return self._on_device(self._read(index.cpu()))

    def _read(self, index: Tensor) -> Tensor:
        pixels = torch.from_numpy(self._images[index.numpy()])
        return pixels.pin_memory() if self._device.type == "cuda" else pixels

    def _on_device(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._device, non_blocking=True)


def announced(batches: Iterable[Batch], announce: Callable[[Batch], None]) -> Iterator[Batch]:
    """The batches, each of them announced before the one in front of it is given away."""
    for current, later in pairwise(chain(batches, [None])):
        if later is not None:
            announce(later)
        assert current is not None
        yield current
