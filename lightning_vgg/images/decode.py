"""Image files of every kind to square RGB arrays.

Transparent pixels are composited on black, 16-bit grey keeps its high byte (Pillow would clip it), EXIF orientation
is applied, of an animation the first frame is used, and other sizes are resized as `Sizing` says.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lightning_vgg.images.imageset import DataError, error_text
from lightning_vgg.images.stored import Pixels
from lightning_vgg.runs.machine import usable_cores

Key = TypeVar("Key")
Result = TypeVar("Result")

# Formats that Pillow names but can only identify, and EPS, for which it would run another program.
_NO_IMAGE_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SMALL = 4_096  # bytes; threads only slow smaller files down (60,000 of 32x32: 7 s without, 12 s with)
_MAX_WAITING = 256  # files read but not yet decoded: bounds the memory when decoding is slower than reading


class Sizing(NamedTuple):
    """How an image becomes a square.

    With antialiasing squash and crop are ``Resize`` and ``CenterCrop`` of ``torchvision.transforms.v2``, and what is
    padded is ``Resize(None, max_size=size)``; without, all three are ``keras.utils.image_dataset_from_directory``.

    Attributes:
        size: pixels a side.
        mode: squash: stretch both sides; crop: cut the middle out of the longer side; pad: resize both sides alike, the
            longer one to the square's, and surround the image with black.
        antialias: average all pixels that a smaller one covers; else interpolate between the nearest four.
    """

    size: int
    mode: Literal["squash", "crop", "pad"] = "squash"
    antialias: bool = True


def open_image(path_or_file: str | os.PathLike[str] | IO[bytes], sizing: Sizing) -> Pixels:
    """The image as uint8 RGB (size, size, 3).

    Raises DataError, with the file's name and the reason, when it cannot be read or decoded.
    """
    try:
        with _bombs_are_errors():
            return decode(path_or_file, sizing).image
    except Exception as error:  # for a bad file Pillow raises anything from struct.error to SyntaxError
        name = getattr(path_or_file, "name", None) or path_or_file
        raise DataError(f"The image {name} cannot be read: {_reason(error)}") from error


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """The image files below a folder, sorted, hidden ones left out; or the file itself.

    Raises DataError when there is no such path, or no image below it.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}.")
    files = sorted(file for file in walk_files(path) if is_image_name(file.name) and not file.is_dir())
    if not files:
        suffixes = ", ".join(sorted(_readable()[0]))
        raise DataError(f"There is no image below {path}; image files end in one of {suffixes}.")
    return files


def walk_files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Files and empty folders below a folder; hidden ones and `__MACOSX` left out.

    Links are followed, except to a folder that holds the link.
    """
    above = (*above, os.path.realpath(folder))
    entries = [entry for entry in sorted(folder.iterdir()) if not is_hidden(entry.name)]
    if not entries:
        yield folder
    for entry in entries:
        broken_link = entry.is_symlink() and not entry.exists()  # not skipped, so that reading it fails
        if entry.is_file() or broken_link:
            yield entry
        elif entry.is_dir() and os.path.realpath(entry) not in above:
            yield from walk_files(entry, above)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in _readable()[0]


def is_image(data: bytes) -> bool:
    """Whether the contents of a file are those of an image, whatever its name is."""
    try:
        with Image.open(io.BytesIO(data), formats=_readable()[1]):
            return True
    except Exception:  # as for a bad file, anything
        return False


@cache
def _readable() -> tuple[frozenset[str], tuple[str, ...]]:
    """File suffixes and format names that Pillow opens; the formats in the order in which they are tried."""
    with suppress(ImportError):  # a plugin for the photos of phones
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.preinit()  # the common formats first; the next line loads all others
    suffixes = Image.registered_extensions()
    formats = tuple(name for name in Image.ID if name not in _NO_IMAGE_FORMATS)
    return frozenset(suffix for suffix, name in suffixes.items() if name in formats), formats


def decode(path_or_file: str | os.PathLike[str] | IO[bytes], sizing: Sizing) -> Decoded:
    """As `open_image`; but Pillow's exceptions are passed on, and decompression bombs only warn."""
    with Image.open(path_or_file, formats=_readable()[1]) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return Decoded(resize(_to_rgb(image), sizing), image.size)


class Decoded(NamedTuple):
    """An image (S, S, 3), and the width and height that it had."""

    image: Pixels
    size: tuple[int, int]


def resize(image: Image.Image, sizing: Sizing) -> Pixels:
    """An RGB image as an array (size, size, 3)."""
    size, (shorter, longer) = sizing.size, sorted(image.size)
    if longer == shorter == size:
        return np.array(image, dtype=np.uint8)
    resized = _averaged if sizing.antialias else _interpolated
    match sizing.mode:
        case "squash":
            square = resized(image, [size, size])
        case "crop" if sizing.antialias:  # torchvision cuts whole pixels of the result out
            image = resized(image, [size * side // shorter for side in image.size])
            square = _cut(image, size, [round((side - size) / 2) for side in image.size])
        case "crop":  # Keras those of the image
            image = _cut(image, shorter, [(side - shorter) // 2 for side in image.size])
            square = resized(image, [size, size])
        case "pad":
            square = Image.new("RGB", (size, size), "black")
            left, top = (size * (longer - side) // (2 * longer) for side in image.size)
            square.paste(resized(image, [max(size * side // longer, 1) for side in image.size]), (left, top))
    return np.array(square, dtype=np.uint8)


def _cut(image: Image.Image, side: int, corner: list[int]) -> Image.Image:
    left, top = corner
    return image.crop((left, top, left + side, top + side))


def _averaged(image: Image.Image, size: list[int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR)


def _interpolated(image: Image.Image, size: list[int]) -> Image.Image:
    """Between the nearest four pixels. Pillow's ``transform`` would not round what it finds, but cut fractions off."""
    from scipy.ndimage import map_coordinates

    columns, rows = ((np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(image.size, size, strict=True))
    places = np.meshgrid(rows, columns, indexing="ij")
    channels = [
        map_coordinates(channel, places, np.float64, order=1, mode="nearest")
        for channel in np.moveaxis(np.asarray(image), 2, 0)
    ]
    return Image.fromarray(np.rint(np.stack(channels, axis=2)).astype(np.uint8))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _high_byte(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError("its pixels have more than 16 bits; save it with 8 or 16 bits")
    return Image.fromarray((grey >> 8).astype(np.uint8))


def decode_all(encoded: Iterable[tuple[Key, bytes]], sizing: Sizing) -> Iterator[tuple[Key, Decoded | str]]:
    """Decode files on all cores: each file's image, or the reason why it has none, in their order.

    `encoded` is read in the calling thread, and only a little ahead of what is asked for.
    """
    waiting: deque[tuple[Key, Future[Decoded]]] = deque()

    def outcomes(most: int) -> Iterator[tuple[Key, Decoded | str]]:
        while len(waiting) > most:
            key, future = waiting.popleft()
            error = future.exception()
            yield key, future.result() if error is None else _reason(error)

    with _bombs_are_errors(), ThreadPoolExecutor(usable_cores()) as pool:
        for key, data in encoded:
            submit = _at_once if len(data) < _SMALL else pool.submit
            waiting.append((key, submit(decode, io.BytesIO(data), sizing)))
            yield from outcomes(_MAX_WAITING)
        yield from outcomes(0)


def _at_once(function: Callable[..., Result], *arguments: object) -> Future[Result]:
    future: Future[Result] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


@contextmanager
def _bombs_are_errors() -> Iterator[None]:
    # Filters belong to the whole process, so they are set around the pool and not inside its threads.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or its beginning is damaged"
    return error_text(error)
