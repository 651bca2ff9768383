"""(seed, epoch) -> the order of the images, and the flip, shift and cutout of each.

One table of random draws for both frameworks, any number of processes, and a resumed run: nothing here has a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_vgg.experiment.specs import AugmentationSpec


@dataclass(frozen=True)
class Draws:
    """Rows of the table, in the order in which the images are visited.

    Attributes:
        index: which image, int64 (N,).
        flip: whether it is mirrored, bool (N,).
        shift: pixels down and to the right, int64 (N, 2).
        cutout: centre of the square, row and column, int64 (N, 2).
    """

    index: np.ndarray
    flip: np.ndarray
    shift: np.ndarray
    cutout: np.ndarray

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(self.index[rows], self.flip[rows], self.shift[rows], self.cutout[rows])


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
    )


def _stream(seed: int, epoch: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, number])))
