"""Decoded images kept on disk, so that image files are decoded once.

::

    <cache>/images-<key>/
      pixels       uint8 (M, S, S, 3), in the order in which the files were read
      index.npz    of train, test and val: which rows are theirs, and their labels
      about.json   the rest of `Index`, M and S, and the fingerprint
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from lightning_vgg.images.imageset import ImageSet, Labels, error_text, make_image_set
from lightning_vgg.images.stored import Images, MappedFile, Pixels, StoredImages, in_memory

FORMAT = 5  # raise it whenever the stored files, or the pixels that `decode` gives, change

PARTS = ("train", "test", "val")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """What decoded images are.

    Attributes:
        rows: of each of PARTS, the numbers of its images in the order in which they were decoded, int64 (N,).
        labels: their classes, int64 (N,).
        class_names, left_out, remarks: as in `ImageSet`.
    """

    rows: dict[str, Labels]
    labels: dict[str, Labels]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def image_set(self, pixels: Pixels, memory: float | None) -> ImageSet:
        """The images; those of a file larger than ``memory`` GB stay there, None for half of the memory that is free.

        Args:
            pixels: all decoded images (M, S, S, 3), perhaps a file.
            memory: in GB.
        """
        keep = isinstance(pixels, np.memmap) and pixels.nbytes > _bytes(memory)

        file = MappedFile(pixels)

        def part(name: str) -> tuple[Images, Labels]:
            images = StoredImages(file, self.rows[name])
            return (images if keep else in_memory(images)), self.labels[name]

        train, test, val = map(part, PARTS)
        return make_image_set(train, test, self.class_names, self.left_out, val, self.remarks)


def _bytes(memory: float | None) -> float:
    if memory is not None:
        return memory * 1e9
    import psutil

    return psutil.virtual_memory().available / 2


class DecodedImages:
    """Where images go as they are decoded, one after the other.

    Attributes:
        count: how many there are.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.count = 0

    def append(self, image: Pixels) -> int:
        """The image's number. Raises _NotWritten where the disk is full."""
        with _writing():
            if self._file.write(image.data) != image.nbytes:  # it is not buffered
                raise OSError("the disk is full")
        self.count += 1
        return self.count - 1


class _NotWritten(Exception):
    """The images cannot be kept on disk. No OSError, which a damaged archive raises, too."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotWritten(str(error)) from error


def cache_folder(cache_dir: str | None) -> Path:
    """The folder for downloads and decoded images."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning-vgg"


def remember(
    cache: Path, key: str, size: int, memory: float | None, build: Callable[[DecodedImages], Index]
) -> ImageSet:
    """The images kept under `key`; they are decoded and kept first where they are missing or damaged.

    Two processes may do this at the same time. A cache that cannot be written costs a warning, not the run.

    Args:
        cache: the folder.
        key: of the entry.
        size: pixels a side.
        memory: as in `Index.image_set`.
        build: decodes the images into what it is given.
    """
    entry = cache / f"images-{key}"
    kept = _read(entry, memory)
    if kept is not None:
        return kept
    try:
        _write(entry, size, build)
    except _NotWritten as error:
        _log.warning("Decoded images cannot be kept in %s (%s); next time they are decoded again.", cache, error)
        file = io.BytesIO()
        index = build(DecodedImages(file))
        return index.image_set(np.frombuffer(file.getbuffer(), np.uint8).reshape(-1, size, size, 3), memory)
    return _open(entry, memory)


def _read(entry: Path, memory: float | None) -> ImageSet | None:
    """None where nothing is kept or what is kept differs from its fingerprint."""
    if not entry.exists():
        return None
    try:
        return _open(entry, memory)
    except (OSError, ValueError, EOFError, KeyError, TypeError, IndexError) as error:
        _log.warning("The cached images in %s are damaged (%s); they are made again.", entry, error_text(error))
        _discard(entry)
        return None


def _open(entry: Path, memory: float | None) -> ImageSet:
    about = json.loads((entry / "about.json").read_text())
    shape = about["count"], about["size"], about["size"], 3
    # Private pages: torch wants an array that could be written, and nothing gets into the file.
    pixels = np.memmap(entry / "pixels", np.uint8, "c", shape=shape)
    with np.load(entry / "index.npz") as arrays:
        rows, labels = ({part: arrays[f"{part}_{what}"] for part in PARTS} for what in ("rows", "labels"))
    index = Index(rows, labels, about["class_names"], about["left_out"], about["remarks"])
    images = index.image_set(pixels, memory)
    if images.fingerprint != about["fingerprint"]:
        raise ValueError("its contents differ from its fingerprint")
    return images


def _discard(entry: Path) -> None:
    """Remove what may be in use: it is moved out of the way in one step, then deleted."""
    with suppress(OSError), tempfile.TemporaryDirectory(prefix=".images-", dir=entry.parent) as scratch:
        entry.rename(Path(scratch, "damaged"))


def _write(entry: Path, size: int, build: Callable[[DecodedImages], Index]) -> None:
    """Put the images there in one step, so that nobody ever sees half an entry."""
    with _scratch(entry.parent) as new:
        with _writing():
            file = (new / "pixels").open("wb", buffering=0)
        with file:
            images = DecodedImages(file)
            index = build(images)
        about = {
            "count": images.count,
            "size": size,
            "class_names": index.class_names,
            "left_out": index.left_out,
            "remarks": index.remarks,
        }
        arrays = {f"{part}_rows": rows for part, rows in index.rows.items()}
        arrays |= {f"{part}_labels": labels for part, labels in index.labels.items()}
        with _writing():
            np.savez(new / "index.npz", allow_pickle=False, **arrays)
            pixels = np.memmap(new / "pixels", np.uint8, "r", shape=(images.count, size, size, 3))
            about["fingerprint"] = index.image_set(pixels, memory=0).fingerprint
            del pixels  # Windows moves no file that is open
            (new / "about.json").write_text(json.dumps(about))
        try:
            new.rename(entry)
        except OSError as error:
            if not entry.exists():  # else another process put the same images there meanwhile
                raise _NotWritten(str(error)) from error


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A new folder, which is gone afterwards unless it was moved. Raises _NotWritten."""
    made = not cache.exists()
    with _writing():
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".images-", dir=cache)
        Path(folder.name, "new").mkdir()
    try:
        with folder:
            yield Path(folder.name, "new")
    finally:
        if made:
            with suppress(OSError):  # unless something was kept in it
                cache.rmdir()
