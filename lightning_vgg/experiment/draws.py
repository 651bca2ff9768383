"""(seed, epoch) -> the order of the images, the flip, shift and cutout of each, and what dropout drops of it.

One table of random draws for both frameworks, any number of processes, and a resumed run: nothing here has a state.

Dropout masks come from a hash: SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators")
of a key, made of the seed, the epoch, the image and the layer, and a counter, made of the unit's place in the layer.
Each number of 64 bits serves four units, so a rate is rounded to 1/65,536. The functions here are the definition; torch
and Keras compute the same bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from lightning_vgg.experiment.specs import AugmentationSpec

GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio: SplitMix64's step from one counter to the next."""
MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
SHIFTS = 30, 27, 31
"""Of SplitMix64's finalizer."""


@dataclass(frozen=True)
class Draws:
    """Rows of the table, in the order in which the images are visited.

    Attributes:
        index: which image, int64 (N,).
        flip: whether it is mirrored, bool (N,).
        shift: pixels down and to the right, int64 (N, 2).
        cutout: centre of the square, row and column, int64 (N, 2).
        mask_key: of the image's dropout masks, int64 (N,).
    """

    index: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    cutout: np.ndarray
    mask_key: np.ndarray

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.index[rows], self.flip[rows], self.shift[rows], self.cutout[rows], self.mask_key[rows])


def draw_epoch(seed: int, epoch: int, count: int, image_size: int, augmentation: AugmentationSpec) -> Draws:
    """Draw the whole epoch (0, 1, ...) of ``count`` images.

    Each column has a random stream of its own, so that switching cutout on does not change the order and the flips.
    """
    order, flip, shift, cutout = (_stream(seed, epoch, number) for number in range(4))
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
    )


def _stream(seed: int, epoch: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, number])))


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
