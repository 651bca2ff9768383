"""OptimizerSpec -> a Keras optimizer; the learning rate of every step, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_reference.backend import Tensor
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import OptimizerSpec

_PLATEAU_FACTOR = "plateau_factor"


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
    spec: OptimizerSpec,
    rates: np.ndarray,
    clip: float | None,
    variables: Sequence[keras.Variable],
    plateau: bool = False,
    batches: int = 1,
) -> keras.optimizers.Optimizer:
    """The optimizer of some variables, built.

    Args:
        spec: the optimizer.
        rates: the learning rate of every step (steps,).
        clip: largest norm of all gradients together; None or 0 for any.
        variables: biases and batch norms among them are spared by weight decay where the spec says so.
        plateau: whether `set_plateau_factor` will lower the rates.
        batches: whose gradients make one step.
    """
    decay = spec.weight_decay
    if decay is None and spec.name == "adamw":
        decay = KERAS.adamw_decay
    epsilon = KERAS.adam_epsilon if spec.epsilon is None else spec.epsilon
    table = RateTable(rates.repeat(batches))  # Keras counts batches when it asks for a rate
    shared: PlainDict = {
        "learning_rate": table,
        "weight_decay": None if decay is None else exact(decay),
        "global_clipnorm": clip or None,
        "gradient_accumulation_steps": batches if batches > 1 else None,
        **_average(spec),
    }
    betas = {"beta_1": exact(spec.beta1), "beta_2": exact(spec.beta2), "epsilon": epsilon}
    optimizer = {
        "sgd": lambda: keras.optimizers.SGD(momentum=exact(spec.momentum), nesterov=spec.nesterov, **shared),
        "adam": lambda: keras.optimizers.Adam(**betas, **shared),
        "adamw": lambda: keras.optimizers.AdamW(**betas, **shared),
    }[spec.name]()
    if plateau:
        table.plateau_factor = optimizer.add_variable((), "ones", name=_PLATEAU_FACTOR)
    if not spec.decay_all:
        optimizer.exclude_from_weight_decay([variable for variable in variables if len(variable.shape) == 1])
    optimizer.build(variables)  # variables made in its first step would have TensorFlow trace that step twice
    return optimizer


class GroupedOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """An optimizer for each group, since Keras has one learning rate and one count of steps an optimizer.

    It clips and accumulates gradients and averages weights itself, and leaves the steps to the others. It is built for
    all variables that will ever train, so a model may be compiled with it again after an unfreezing.

    Args:
        spec: of each of them.
        rates: the learning rate of every step (steps,).
        clip: largest norm of all gradients together; None or 0 for any.
        groups: what trains.
        plateau: whether `set_plateau_factor` will lower the rates.
        batches: whose gradients make one step.
    """

    def __init__(
        self,
        spec: OptimizerSpec,
        rates: np.ndarray,
        clip: float | None,
        groups: Sequence[ParameterGroup],
        plateau: bool = False,
        batches: int = 1,
    ) -> None:
        accumulated = batches if batches > 1 else None
        super().__init__(
            RateTable(rates), global_clipnorm=clip or None, gradient_accumulation_steps=accumulated, **_average(spec)
        )
        self.groups = list(groups)
        self.optimizers = [
            build_optimizer(
                replace(spec, ema=None), rates[group.start :] * group.rate_factor, None, group.variables, plateau
            )
            for group in groups
        ]
        self.build([variable for group in groups for variable in group.variables])

    @property
    def variables(self) -> list[keras.Variable]:
        return [*super().variables, *(variable for optimizer in self.optimizers for variable in optimizer.variables)]

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: Tensor
    ) -> None:
        """Those groups that train now; the others keep their state and their count."""
        gradients = {id(variable): gradient for variable, gradient in zip(trainable_variables, grads, strict=True)}
        for optimizer, group in zip(self.optimizers, self.groups, strict=True):
            training = [variable for variable in group.variables if id(variable) in gradients]
            if training:
                optimizer.apply([gradients[id(variable)] for variable in training], training)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Nothing: Keras would put the average in place of the weights, and an unfreezing goes on with these."""


class RateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, looked up; after the last step the last one.

    Attributes:
        plateau_factor: by which it is multiplied; a variable of the optimizer, so that a compiled step reads it anew.
    """

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates
        self.plateau_factor: keras.Variable | None = None

    def __call__(self, step: Tensor) -> Tensor:
        rates = keras.ops.convert_to_tensor(self.rates, dtype=keras.config.floatx())
        rate = keras.ops.take(rates, keras.ops.minimum(step, len(self.rates) - 1))
        return rate if self.plateau_factor is None else rate * self.plateau_factor

    def get_config(self) -> PlainDict:
        return {"rates": self.rates.tolist()}


def _average(spec: OptimizerSpec) -> PlainDict:
    return {} if spec.ema is None else {"use_ema": True, "ema_momentum": exact(spec.ema)}


def take_last_step(model: keras.Model, missing: int) -> None:
    """As if an epoch had had some more batches, with gradients of 0: so many as its last step has too few."""
    variables = model.trainable_variables
    for _ in range(missing):
        model.optimizer.apply([keras.ops.zeros_like(variable) for variable in variables], variables)


def set_plateau_factor(optimizer: keras.optimizers.Optimizer, factor: float) -> None:
    """Multiply the rates of all steps from now on by a factor."""
    for variable in optimizer.variables:
        if variable.name == _PLATEAU_FACTOR:
            variable.assign(exact(factor))


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
