"""uint8 images and draws -> a float batch, in numpy; Keras trains on it, and Lightning's equals it bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lightning_vgg.experiment.draws import Draws
from lightning_vgg.images.augmentation import augmented, inside, mixed
from lightning_vgg.images.stored import Images, StoredImages, chunks


@dataclass(frozen=True)
class Normalization:
    """``(pixel - mean) / std`` for each channel, in units of pixel values 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Images) -> Normalization:
        """Mean and standard deviation of uint8 NHWC images, exact (from the counts of each value).

        A constant channel gets a standard deviation of 1.
        """
        counts = np.zeros((images.shape[-1], 256), np.int64)
        for chunk in chunks(images):
            for channel, count in enumerate(counts):
                count += np.bincount(chunk[..., channel].ravel(), minlength=256)
        values = np.arange(256)
        mean = counts @ values / counts.sum(1)
        variance = counts @ values**2 / counts.sum(1) - mean**2
        std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def constants(self, dtype: np.dtype | type) -> tuple[np.ndarray, np.ndarray]:
        """Mean and 1/std as ``dtype``; the batch is ``(pixels - mean) * scale``, rounded after each of the two."""
        return np.asarray(self.mean, dtype), (1 / np.asarray(self.std)).astype(dtype)


def normalize(images: np.ndarray, normalization: Normalization, dtype: np.dtype | type) -> np.ndarray:
    """Pixels 0..255 (B, H, W, C) -> ``dtype`` (B, H, W, C)."""
    mean, scale = normalization.constants(dtype)
    return (images.astype(dtype) - mean) * scale


def cut_batch(images: Images, draws: Draws, cutout: int, preprocess: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gather, augment, preprocess, cut out and erase; images are not mixed yet.

    Args:
        images: all training images, uint8 (N, S, S, C).
        draws: the batch's rows.
        cutout: side of the square that is set to 0 (the mean) after preprocessing; 0 for none.
        preprocess: pixels 0..255 (B, S, S, C) to floats of the same shape, such as `normalize`.

    Returns:
        What ``preprocess`` returns, (B, S, S, C).
    """
    size = images.shape[1]
    if isinstance(images, StoredImages):
        images, draws = images[draws.index], replace(draws, index=np.arange(len(draws.index)))
    batch = preprocess(augmented(images, draws))
    if cutout:
        first = draws.cutout - cutout // 2
        batch[inside(first, first + cutout, size)] = 0
    if draws.erased is not None:
        batch[inside(draws.erased[:, 0], draws.erased[:, 1], size)] = 0
    return batch


def training_batch(
    images: Images,
    labels: np.ndarray,
    classes: int,
    draws: Draws,
    cutout: int,
    preprocess: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """What a network is trained on.

    Args:
        images: as in `cut_batch`, as are ``cutout`` and ``preprocess``.
        labels: of all training images, int64 (N,).
        classes: how many there are.
        draws: the rows of a whole batch.

    Returns:
        Images (B, S, S, C), and labels int64 (B,) or, where images are mixed, shares of the classes (B, classes).
    """
    batch, labels = cut_batch(images, draws, cutout, preprocess), labels[draws.index]
    return (batch, labels) if draws.mixing is None else mixed(batch, labels, draws.mixing, classes)
