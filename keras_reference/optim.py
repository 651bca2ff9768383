"""OptimizerSpec -> a Keras optimizer; the learning rate of every step, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_reference.backend import Tensor
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import OptimizerSpec


@dataclass(frozen=True)
class ParameterGroup:
    """Variables that begin to train together.

    Attributes:
        variables: of the model.
        rate_factor: their learning rate as a share of the experiment's.
        start: the steps that are done before they train.
    """

    variables: list[keras.Variable]
    rate_factor: float = 1.0
    start: int = 0


def build_optimizer(
    spec: OptimizerSpec, rates: np.ndarray, clip: float | None, variables: Sequence[keras.Variable]
) -> keras.optimizers.Optimizer:
    """The optimizer of some variables.

    Args:
        spec: the optimizer.
        rates: the learning rate of every step (steps,).
        clip: largest norm of all gradients together; None or 0 for any.
        variables: biases and batch norms among them are spared by weight decay where the spec says so.
    """
    decay = spec.weight_decay
    if decay is None and spec.name == "adamw":
        decay = KERAS.adamw_decay
    epsilon = KERAS.adam_epsilon if spec.epsilon is None else spec.epsilon
    shared: PlainDict = {
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
        optimizer.exclude_from_weight_decay([variable for variable in variables if len(variable.shape) == 1])
    return optimizer


class GroupedOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """An optimizer for each group, since Keras has one learning rate and one count of steps an optimizer.

    It is built for all variables that will ever train, so a model may be compiled with it again after an unfreezing.

    Args:
        spec: of each of them.
        rates: the learning rate of every step (steps,).
        clip: largest norm of all gradients together; None or 0 for any.
        groups: what trains.
    """

    def __init__(
        self, spec: OptimizerSpec, rates: np.ndarray, clip: float | None, groups: Sequence[ParameterGroup]
    ) -> None:
        super().__init__(RateTable(rates), global_clipnorm=clip or None)
        self.groups = list(groups)
        self.optimizers = [
            build_optimizer(spec, rates[group.start :] * group.rate_factor, None, group.variables) for group in groups
        ]
        for optimizer, group in zip(self.optimizers, groups, strict=True):
            optimizer.build(group.variables)
        self.build([variable for group in groups for variable in group.variables])

    @property
    def variables(self) -> list[keras.Variable]:
        return [*super().variables, *(variable for optimizer in self.optimizers for variable in optimizer.variables)]

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Those groups that train now; the others keep their state and their count."""
        variables = trainable_variables or [variable for group in self.groups for variable in group.variables]
        gradients = {
            id(variable): gradient
            for variable, gradient in zip(variables, self._clip_gradients(list(grads)), strict=True)
        }
        for optimizer, group in zip(self.optimizers, self.groups, strict=True):
            training = [variable for variable in group.variables if id(variable) in gradients]
            if training:
                optimizer.apply([gradients[id(variable)] for variable in training], training)
        self._iterations.assign_add(1)


class RateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, looked up; after the last step the last one."""

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates

    def __call__(self, step: Tensor) -> Tensor:
        rates = keras.ops.convert_to_tensor(self.rates, dtype=keras.config.floatx())
        return keras.ops.take(rates, keras.ops.minimum(step, len(self.rates) - 1))

    def get_config(self) -> PlainDict:
        return {"rates": self.rates.tolist()}


def exact(number: float) -> float:
    """The number so that TensorFlow keeps all its digits in float64; a bare Python one it rounds to float32 first."""
    return np.float64(number) if keras.config.floatx() == "float64" else number


def training_loss(label_smoothing: float, num_classes: int, mixed: bool = False) -> keras.losses.Loss:
    """Mean cross-entropy of logits (B, classes) and labels (B,); if ``mixed``, also of shares (B, classes)."""
    if label_smoothing or mixed:
        return SoftCrossEntropy(label_smoothing, num_classes)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class SoftCrossEntropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy of shares (B, classes), or of labels (B,) with the smoothing that Keras has for shares only."""

    def __init__(self, label_smoothing: float, num_classes: int) -> None:
        super().__init__(name="soft_cross_entropy")
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def call(self, labels: Tensor, logits: Tensor) -> Tensor:
        if len(labels.shape) == 1:
            labels = keras.ops.one_hot(keras.ops.cast(labels, "int32"), self.num_classes, dtype=logits.dtype)
        return keras.losses.categorical_crossentropy(
            labels, logits, from_logits=True, label_smoothing=self.label_smoothing
        )
