"""(seed, epoch) -> the order of the images, how each is augmented, and what dropout drops of it.

One table of random draws for both frameworks, any number of processes, and a resumed run: nothing here has a state.

Dropout masks come from a hash: SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators")
of a key, made of the seed, the epoch, the image and the layer, and a counter, made of the unit's place in the layer.
Each number of 64 bits serves four units, so a rate is rounded to 1/65,536. The functions here are the definition; torch
and Keras compute the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Self

import numpy as np

from lightning_vgg.experiment.specs import AugmentationSpec

GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio: SplitMix64's step from one counter to the next."""
MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
SHIFTS = 30, 27, 31
"""Of SplitMix64's finalizer."""
ERASED_AREAS = 0.02, 0.33
"""Least and largest share of the image that is erased: the defaults of ``keras.layers.RandomErasing``."""
CROP_RATIOS = 3 / 4, 4 / 3
"""Least and largest width over height of a crop: the defaults of ``torchvision.transforms.RandomResizedCrop``."""
CROP_TRIES = 10
"""Crops that are drawn until one fits, as in torchvision."""


Streams = Callable[[int], np.random.Generator]
"""Number -> a stream of random numbers for this seed and epoch."""


@dataclass(frozen=True)
class _Table:
    """Columns of the same length; what is switched off is None."""

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[rows] for name, column in columns.items() if column is not None})


@dataclass(frozen=True)
class Mixing(_Table):
    """How each image is mixed with another of its batch.

    Attributes:
        order: random numbers in [0, 1), by which a batch's images are shuffled, float64 (N,).
        share: of the image's own label, float64 (N,).
        blend: weight of the image's own pixels, float64 (N,); None without mixup.
        pasted: the other image's rectangle, as `Draws.erased`; None without cutmix.
    """

    order: np.ndarray
    share: np.ndarray
    blend: np.ndarray | None
    pasted: np.ndarray | None

    def partners(self) -> np.ndarray:
        """Of a whole batch's rows: which of its images is mixed into each, a permutation, int64 (B,)."""
        return np.argsort(self.order, kind="stable")


@dataclass(frozen=True)
class Draws(_Table):
    """Rows of the table, in the order in which the images are visited.

    Attributes:
        index: which image, int64 (N,).
        flip: whether it is mirrored, bool (N,).
        shift: pixels down and to the right, int64 (N, 2).
        cutout: centre of the square, row and column, int64 (N, 2).
        mask_key: of the image's dropout masks, int64 (N,).
        vertical_flip: whether it stands on its head, bool (N,).
        turn: cosine and sine of the angle, counter-clockwise, times the zoom, of which more than 1 shrinks, float64
            (N, 2).
        contrast: factor, float64 (N,).
        brightness: what is added to pixels 0..255, float64 (N,).
        erased: a rectangle's first row and column, and those behind its last, int64 (N, 2, 2); zeros for none.
        mixing: with another image.
        crop: the rectangle that is resized to the whole image, as ``erased``, int64 (N, 2, 2).
    """

    index: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    cutout: np.ndarray
    mask_key: np.ndarray
    vertical_flip: np.ndarray | None = None
    turn: np.ndarray | None = None
    contrast: np.ndarray | None = None
    brightness: np.ndarray | None = None
    erased: np.ndarray | None = None
    mixing: Mixing | None = None
    crop: np.ndarray | None = None

    @property
    def moves_pixels(self) -> bool:
        """Whether any pixel of these images changes its place."""
        places = (self.vertical_flip, self.turn, self.crop)
        return bool(self.flip.any() or self.shift.any()) or any(column is not None for column in places)


def draw_epoch(seed: int, epoch: int, count: int, image_size: int, augmentation: AugmentationSpec) -> Draws:
    """Draw the whole epoch (0, 1, ...) of ``count`` images.

    Each column has a random stream of its own, so that switching cutout on does not change the order and the flips.
    """
    stream = partial(_stream, seed, epoch)
    order, flip, shift, cutout = (stream(number) for number in range(4))
    index = order.permutation(count)
    if augmentation.flip == "alternating":  # drawn once for each image, not again in each epoch
        flipped = (_stream(seed, 0, 4).random(count) < 0.5)[index] ^ bool(epoch % 2)
    else:
        flipped = flip.random(count) < (0.5 if augmentation.flip else 0.0)
    return Draws(
        index=index,
        flip=flipped,
        shift=shift.integers(-augmentation.shift, augmentation.shift + 1, (count, 2)),
        cutout=cutout.integers(0, image_size, (count, 2)),
        mask_key=mask_keys(seed, epoch, index),
        vertical_flip=stream(5).random(count) < 0.5 if augmentation.vertical_flip else None,
        turn=_draw_turns(stream, count, augmentation) if augmentation.rotation or augmentation.zoom else None,
        contrast=_around(1, augmentation.contrast, stream(8), count) if augmentation.contrast else None,
        brightness=_around(0, 255 * augmentation.brightness, stream(9), count) if augmentation.brightness else None,
        erased=_draw_erased(stream(10), count, image_size, augmentation.erasing) if augmentation.erasing else None,
        mixing=_draw_mixing(stream, count, image_size, augmentation) if augmentation.mixes else None,
        crop=_draw_crops(stream(15), count, image_size, augmentation.resized_crop) if augmentation.crops else None,
    )


def _stream(seed: int, epoch: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, number])))


def _around(centre: float, most: float, stream: np.random.Generator, count: int) -> np.ndarray:
    """Uniform in [centre - most, centre + most)."""
    return stream.uniform(centre - most, centre + most, count)


def _draw_turns(stream: Streams, count: int, augmentation: AugmentationSpec) -> np.ndarray:
    angle = _around(0, 2 * np.pi * augmentation.rotation, stream(6), count)
    zoom = _around(1, augmentation.zoom, stream(7), count)
    return np.stack([zoom * np.cos(angle), zoom * np.sin(angle)], axis=1)


def _draw_erased(stream: np.random.Generator, count: int, image_size: int, probability: float) -> np.ndarray:
    """As ``keras.layers.RandomErasing``, whose sides are roots of areas, but in whole pixels."""
    sides = np.rint(np.sqrt(stream.uniform(*ERASED_AREAS, (count, 2))) * image_size).astype(np.int64)
    rectangles = _place(stream, sides, image_size)
    return np.where((stream.random(count) < probability)[:, None, None], rectangles, 0)


def _draw_crops(stream: np.random.Generator, count: int, image_size: int, least_area: float) -> np.ndarray:
    """As ``torchvision.transforms.RandomResizedCrop``, after Szegedy et al. 2014, arXiv 1409.4842.

    Areas are uniform, and so are the logarithms of width over height. A crop that does not fit into the image is drawn
    again; where none of ten fits, it is the whole image.
    """
    area = image_size**2 * stream.uniform(least_area, 1, (CROP_TRIES, count))
    least_ratio, largest_ratio = np.log(CROP_RATIOS)
    ratio = np.exp(stream.uniform(least_ratio, largest_ratio, (CROP_TRIES, count)))
    sides = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=-1))).astype(np.int64)
    sides = np.concatenate([sides, np.full((1, count, 2), image_size)])
    fits = ((sides > 0) & (sides <= image_size)).all(axis=-1)
    return _place(stream, sides[fits.argmax(axis=0), np.arange(count)], image_size)


def _draw_mixing(stream: Streams, count: int, image_size: int, augmentation: AugmentationSpec) -> Mixing:
    """Shares as ``keras.layers.MixUp`` and ``CutMix`` draw them, one for each image."""
    both = augmentation.mixup > 0 and augmentation.cutmix > 0
    by_mixup = stream(11).random(count) < (0.5 if both else float(augmentation.mixup > 0))
    share, blend, pasted = np.ones(count), None, None
    if augmentation.mixup:
        share = blend = np.where(by_mixup, stream(12).beta(augmentation.mixup, augmentation.mixup, count), 1.0)
    if augmentation.cutmix:
        places = stream(13)
        area = 1 - places.beta(augmentation.cutmix, augmentation.cutmix, count)
        side = np.where(by_mixup, 0, np.rint(np.sqrt(area) * image_size)).astype(np.int64)
        pasted = _place(places, np.stack([side, side], axis=1), image_size)
        share = share * (1 - side**2 / image_size**2)
    return Mixing(stream(14).random(count), share, blend, pasted)


def _place(stream: np.random.Generator, sides: np.ndarray, image_size: int) -> np.ndarray:
    """Rectangles of these heights and widths, int64 (N, 2), anywhere inside the image, int64 (N, 2, 2)."""
    first = stream.integers(0, image_size - sides + 1)
    return np.stack([first, first + sides], axis=1)


def mask_keys(seed: int, epoch: int, images: np.ndarray) -> np.ndarray:
    """The keys of the images' dropout masks in an epoch (0, 1, ...), int64 like ``images`` (N,)."""
    key = _mix(np.array([seed % 2**64], np.uint64))
    for part in (np.array([epoch]), images):
        key = _mix(key + np.uint64(GOLDEN) * part.astype(np.uint64))
    return key.view(np.int64)


def layer_key(name: str) -> int:
    """64 bits of a layer's name (BLAKE2b), as a signed number."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def mask_bits(keys: np.ndarray, layer: int, units: int) -> np.ndarray:
    """16 random bits for each unit of a layer.

    Args:
        keys: of the images, int64 (B,).
        layer: its key.
        units: how many, counted as (H, W, C) or (features,).

    Returns:
        int16 (B, units).
    """
    keys = _mix((keys ^ np.int64(layer)).view(np.uint64))
    counter = np.arange(-(-units // 4), dtype=np.uint64) * np.uint64(GOLDEN)
    return _mix(keys[:, None] + counter).view("<i2")[:, :units]


def lowest_kept(rate: float) -> int:
    """Units whose 16 bits, as a signed number, are below this are dropped."""
    return min(round(rate * 2**16), 2**16 - 1) - 2**15


def _mix(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer of each uint64."""
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(multiplier)
    return numbers ^ (numbers >> np.uint64(SHIFTS[-1]))
