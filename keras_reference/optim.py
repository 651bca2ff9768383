"""What is minimized, and how: the loss, the optimizer, and the learning rate of every step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import OptimizerSpec


def training_loss(label_smoothing: float, num_classes: int) -> keras.losses.Loss:
    """Cross-entropy of logits (B, classes) and labels (B,), mean over the batch."""
    if label_smoothing:
        return SmoothedCrossEntropy(label_smoothing, num_classes)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class SmoothedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy with label smoothing, which Keras offers for one-hot labels only."""

    def __init__(self, label_smoothing: float, num_classes: int) -> None:
        super().__init__(name="smoothed_cross_entropy")
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def call(self, labels: Any, logits: Any) -> Any:
        one_hot = keras.ops.one_hot(keras.ops.cast(labels, "int32"), self.num_classes, dtype=logits.dtype)
        return keras.losses.categorical_crossentropy(
            one_hot, logits, from_logits=True, label_smoothing=self.label_smoothing
        )


class RateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, looked up; after the last step the last one."""

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        rates = keras.ops.convert_to_tensor(self.rates, dtype=keras.config.floatx())
        return keras.ops.take(rates, keras.ops.minimum(step, len(self.rates) - 1))

    def get_config(self) -> dict[str, Any]:
        return {"rates": self.rates.tolist()}


def build_optimizer(
    spec: OptimizerSpec, rates: np.ndarray, clip: float | None, model: keras.Model
) -> keras.optimizers.Optimizer:
    """The optimizer of a model.

    Args:
        spec: the optimizer.
        rates: the learning rate of every step (steps,).
        clip: largest norm of all gradients together; None or 0 for any.
        model: its biases and batch norms are spared by weight decay where the spec says so.
    """
    decay = spec.weight_decay
    if decay is None and spec.name == "adamw":
        decay = KERAS.adamw_decay
    epsilon = KERAS.adam_epsilon if spec.epsilon is None else spec.epsilon
    shared: dict[str, Any] = {
        "learning_rate": RateTable(rates),
        "weight_decay": None if decay is None else exact(decay),
        "global_clipnorm": clip or None,
    }
    betas = {"beta_1": exact(spec.beta1), "beta_2": exact(spec.beta2), "epsilon": epsilon}
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(momentum=exact(spec.momentum), nesterov=spec.nesterov, **shared),
        "adam": lambda: keras.optimizers.Adam(**betas, **shared),
        "adamw": lambda: keras.optimizers.AdamW(**betas, **shared),
    }[spec.name]()
    if not spec.decay_all:
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.trainable_variables if len(variable.shape) == 1]
        )
    return optimizer


def exact(number: float) -> float:
    """The number so that TensorFlow keeps all its digits in float64; a bare Python one it rounds to float32 first."""
    return np.float64(number) if keras.config.floatx() == "float64" else number
