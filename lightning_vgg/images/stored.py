"""Arrays that stay in a file: more images, or features, than memory holds."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_CHUNK = 1 << 26  # bytes of images in memory at a time, where all of them are gone through
_RESIDENT = 1 << 28  # bytes of a mapped file that may count as this process's own memory


class MappedFile:
    """A file that is mapped into memory, of which few pages at a time count as this process's own.

    The system reads what is used into its cache of files. Pages that are given back stay there as long as nobody else
    needs the memory, so reading them again is no slower than copying.

    Attributes:
        array: all of it; another array in memory is taken, too, and needs nothing of this.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)
        self._map = getattr(array, "_mmap", None) if array.nbytes > _RESIDENT else None
        self._used = 0

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> np.ndarray:
        """A copy of some rows."""
        found = self.array[rows].copy() if isinstance(rows, slice) else self.array.take(rows, axis=0)
        self.used(found.nbytes)
        return found

    def used(self, size: int) -> None:
        """So many bytes were read; after enough of them, all pages are given back."""
        self._used += size
        if self._used > _RESIDENT and self._map is not None and hasattr(mmap, "MADV_DONTNEED"):  # Windows has none
            self._map.madvise(mmap.MADV_DONTNEED)
            self._used = 0


@dataclass(frozen=True, eq=False)
class StoredImages:
    """uint8 images (N, S, S, C) in a file, of which only those that are asked for are read into memory.

    Attributes:
        pixels: the file of all images (M, S, S, 3).
        rows: which of them these are, int64 (N,).
        grey: whether they are asked for with one channel, their brightness.
    """

    pixels: MappedFile
    rows: npt.NDArray[np.int64]
    grey: bool = False

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.pixels.array.shape[1:3], 1 if self.grey else 3)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | npt.NDArray[np.int64]) -> Pixels:
        found = self.pixels[np.atleast_1d(self.rows[index])]
        if isinstance(index, int | np.integer):
            found = found[0]
        return brightness(found) if self.grey else found


Images = Pixels | StoredImages
"""uint8 (N, S, S, C), in memory or in a file."""


def choose(images: Images, rows: npt.NDArray[np.int64]) -> Images:
    """Some of the images; those in a file stay there."""
    return replace(images, rows=images.rows[rows]) if isinstance(images, StoredImages) else images[rows]


def in_memory(images: StoredImages) -> Pixels:
    """All of them at once."""
    found, first = np.empty(images.shape, np.uint8), 0
    for chunk in chunks(images):
        found[first : first + len(chunk)] = chunk
        first += len(chunk)
    return found


def chunks(images: Images) -> Iterator[Pixels]:
    """All images, some at a time, contiguous in memory; none if there are none."""
    size = max(1, _CHUNK // max(1, int(np.prod(images.shape[1:]))))
    for first in range(0, len(images), size):
        yield np.ascontiguousarray(images[first : first + size])


def brightness(images: Pixels) -> Pixels:
    """uint8 RGB (..., 3) -> (..., 1): the luma of ITU-R BT.601, in the integers of Pillow's mode L."""
    red, green, blue = (images[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]


def in_grey(images: Images) -> Images:
    """The images with one channel, their brightness."""
    return replace(images, grey=True) if isinstance(images, StoredImages) else brightness(images)
