"""Keras's metrics of labels (B,); of mixed images, whose targets are shares (B, classes), the largest share counts."""

from __future__ import annotations

import keras

from keras_reference.backend import Tensor


class Accuracy(keras.metrics.SparseCategoricalAccuracy):  # type: ignore[misc]
    """Share of the images whose logit of the label is the largest."""

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return super().update_state(_labels(y_true), y_pred, sample_weight)


class CrossEntropy(keras.metrics.SparseCategoricalCrossentropy):  # type: ignore[misc]
    """Mean cross-entropy, without label smoothing."""

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return super().update_state(_labels(y_true), y_pred, sample_weight)


def _labels(targets: Tensor) -> Tensor:
    return targets if len(targets.shape) == 1 else keras.ops.argmax(targets, axis=-1)
