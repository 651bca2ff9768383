"""Resizing images on the device: bilinear between the centres of the pixels, no antialiasing."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class Resize(keras.layers.Layer):  # type: ignore[misc]
    """Images (B, S, S, C) -> (B, size, size, C) by ``keras.ops.image.resize``, in float32 or float64.

    TensorFlow's rounds to float32 whatever comes in; in float64 two matrix products give what it means.
    """

    def __init__(self, size: int) -> None:
        super().__init__(name="resize", dtype=keras.config.floatx())
        self.size = size

    def call(self, images: Any) -> Any:
        if images.shape[1] == self.size:
            return images
        if self.compute_dtype != "float64":
            return keras.ops.image.resize(images, (self.size, self.size), interpolation="bilinear", antialias=False)
        rows, columns = (
            keras.ops.convert_to_tensor(interpolation_matrix(side, self.size)) for side in images.shape[1:3]
        )
        return keras.ops.einsum("ih,bhwc,jw->bijc", rows, images, columns)


def interpolation_matrix(size: int, new_size: int) -> np.ndarray:
    """Linear interpolation along one axis, float64 (new_size, size).

    Output i lies at (i + 1/2) · size / new_size - 1/2 between the inputs; beyond the first and the last one they go on.
    """
    place = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    below = np.minimum(place.astype(int), max(size - 2, 0))
    matrix = np.zeros((new_size, size))
    matrix[np.arange(new_size), below] += 1 - (place - below)
    matrix[np.arange(new_size), np.minimum(below + 1, size - 1)] += place - below
    return matrix
