"""Metrics of labels (B,), and what follows from them of the classes; of mixed images, whose targets are shares
(B, classes), the largest share counts.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_reference.backend import Logs, Tensor
from lightning_vgg.runs.scores import macro_scores


class Accuracy(keras.metrics.Metric):  # type: ignore[misc]
    """Share of the images whose logit of the label is the largest, from their confusion matrix.

    Args:
        classes: logits.
        dtype, name: as Keras has them.

    Attributes:
        confusion: images of the row's class that were taken for the column's (classes, classes).
    """

    def __init__(self, classes: int, dtype: str | None = None, name: str = "acc") -> None:
        super().__init__(dtype=dtype, name=name)
        self.confusion = self.add_variable((classes, classes), "zeros", self.dtype, name="confusion")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch: labels (B,) or shares (B, classes), and logits (B, classes); each image counts once."""
        classes = self.confusion.shape[0]
        cells = ops.cast(_labels(y_true), "int32") * classes + ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        counts = ops.segment_sum(ops.ones_like(cells, self.dtype), cells, classes**2)
        self.confusion.assign_add(ops.reshape(counts, (classes, classes)))

    def result(self) -> Tensor:
        return ops.trace(self.confusion) / ops.maximum(ops.sum(self.confusion), 1)  # 0 before the first image


class ClassScores(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds the means over the classes to what the callbacks after it see of a validated epoch.

    Attributes:
        confusion: confusion matrix of the last validation, int64 (classes, classes); None before there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.confusion: np.ndarray | None = None

    def on_test_end(self, logs: Logs = None) -> None:
        compiled = [metric for group in self.model.metrics for metric in getattr(group, "metrics", ())]
        (accuracy,) = (metric for metric in compiled if isinstance(metric, Accuracy))
        self.confusion = ops.convert_to_numpy(accuracy.confusion).astype(np.int64)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self.confusion is not None:
            logs |= {f"val_{name}": value for name, value in macro_scores(self.confusion).items()}


class CrossEntropy(keras.metrics.SparseCategoricalCrossentropy):  # type: ignore[misc]
    """Mean cross-entropy, without label smoothing."""

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return super().update_state(_labels(y_true), y_pred, sample_weight)


def _labels(targets: Tensor) -> Tensor:
    return targets if len(targets.shape) == 1 else keras.ops.argmax(targets, axis=-1)
