"""uint8 images and draws -> a float batch, in numpy; Keras trains on it, and Lightning's equals it bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_vgg.experiment.draws import Draws


@dataclass(frozen=True)
class Normalization:
    """``(pixel - mean) / std`` for each channel, in units of pixel values 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: np.ndarray) -> Normalization:
        """Mean and standard deviation of uint8 NHWC images, exact (from the counts of each value).

        A constant channel gets a standard deviation of 1.
        """
        counts = np.stack(
            [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(images.shape[-1])]
        )
        values = np.arange(256)
        mean = counts @ values / counts.sum(1)
        variance = counts @ values**2 / counts.sum(1) - mean**2
        std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def constants(self, dtype: np.dtype | type) -> tuple[np.ndarray, np.ndarray]:
        """Mean and 1/std as ``dtype``; the batch is ``(pixels - mean) * scale``, rounded after each of the two."""
        return np.asarray(self.mean, dtype), (1 / np.asarray(self.std)).astype(dtype)


def normalize(images: np.ndarray, normalization: Normalization, dtype: np.dtype | type) -> np.ndarray:
    """uint8 (B, H, W, C) -> ``dtype`` (B, H, W, C)."""
    mean, scale = normalization.constants(dtype)
    return (images.astype(dtype) - mean) * scale


def cut_batch(
    images: np.ndarray, draws: Draws, cutout: int, preprocess: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gather, flip, shift, preprocess and cut out the drawn images.

    Args:
        images: all training images, uint8 (N, S, S, C).
        draws: the batch's rows.
        cutout: side of the square that is set to 0 (the mean) after preprocessing; 0 for none.
        preprocess: uint8 (B, S, S, C) to floats of the same shape, such as `normalize`.

    Returns:
        What ``preprocess`` returns, (B, S, S, C).
    """
    size = images.shape[1]
    rows = _reflect(np.arange(size) - draws.shift[:, :1], size)
    columns = np.arange(size) - draws.shift[:, 1:]
    columns = np.where(draws.flip[:, None], size - 1 - columns, columns)
    columns = _reflect(columns, size)
    batch = images[draws.index[:, None, None], rows[:, :, None], columns[:, None, :]]
    batch = preprocess(batch)
    if cutout:
        first = draws.cutout - cutout // 2
        inside = (np.arange(size) >= first[..., None]) & (np.arange(size) < first[..., None] + cutout)
        batch[inside[:, 0, :, None] & inside[:, 1, None, :]] = 0
    return batch


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Fold indices that run over an edge back into the image, without repeating the edge pixel."""
    return (size - 1) - np.abs((size - 1) - np.abs(index))
