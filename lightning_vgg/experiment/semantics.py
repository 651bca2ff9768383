"""Where the defaults of Keras and PyTorch differ: each difference is one field, with a value for each framework.

Sources: the code of Keras 3.15 and PyTorch 2.14.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import or_all


@dataclass(frozen=True)
class Semantics:
    """One resolved value for each switch.

    Attributes:
        initialization: Keras: Glorot uniform, biases 0; torch: U(±1/√fan_in) for weights and biases alike.
        batch_norm_epsilon: added to the variance.
        batch_norm_momentum: share of the OLD value that a running statistic keeps (torch writes 1 minus that).
        batch_norm_variance: divisor of the running variance: n (biased) or n - 1 (unbiased).
        strided_padding: a strided convolution pads the odd pixel at the end, or both sides equally.
        adam_epsilon: the default of optimizer.epsilon.
        adam_formula: epsilon is added to √v before the bias correction, or after it.
        adamw_decay: AdamW's default of optimizer.weight_decay.
        weight_decay: of sgd and adam: decoupled, w -= rate · decay · w, or coupled: added to the gradient as L2.
        sgd_velocity: the velocity sums rate · gradient, or gradients alone; the two differ once the rate changes.
        clip_epsilon: added to the norm of the gradient before dividing by it.
        weighted_mean: of data.class_weight: a batch's weighted losses are divided by its images, or by their weights.
        plateau_patience: of reduce_on_plateau: the rate falls when patience is reached, or when it is exceeded.
        plateau_threshold: of reduce_on_plateau: min_delta is absolute, or relative to the best value.
        plateau_cooldown: of reduce_on_plateau: the last epoch of the cooldown counts again, or all are silent.
    """

    initialization: Literal["glorot_uniform", "kaiming_uniform"]
    batch_norm_epsilon: float
    batch_norm_momentum: float
    batch_norm_variance: Literal["biased", "unbiased"]
    strided_padding: Literal["end", "both"]
    adam_epsilon: float
    adam_formula: Literal["uncorrected", "corrected"]
    adamw_decay: float
    weight_decay: Literal["decoupled", "coupled"]
    sgd_velocity: Literal["with_rate", "without_rate"]
    clip_epsilon: float
    weighted_mean: Literal["over_images", "over_weights"]
    plateau_patience: Literal["reached", "exceeded"]
    plateau_threshold: Literal["absolute", "relative"]
    plateau_cooldown: Literal["last_counts", "silent"]


KERAS = Semantics(
    initialization="glorot_uniform",
    batch_norm_epsilon=1e-3,
    batch_norm_momentum=0.99,
    batch_norm_variance="biased",
    strided_padding="end",
    adam_epsilon=1e-7,
    adam_formula="uncorrected",
    adamw_decay=0.004,
    weight_decay="decoupled",
    sgd_velocity="with_rate",
    clip_epsilon=0.0,
    weighted_mean="over_images",
    plateau_patience="reached",
    plateau_threshold="absolute",
    plateau_cooldown="last_counts",
)

TORCH = Semantics(
    initialization="kaiming_uniform",
    batch_norm_epsilon=1e-5,
    batch_norm_momentum=0.9,
    batch_norm_variance="unbiased",
    strided_padding="both",
    adam_epsilon=1e-8,
    adam_formula="corrected",
    adamw_decay=0.01,
    weight_decay="coupled",
    sgd_velocity="without_rate",
    clip_epsilon=1e-6,
    weighted_mean="over_weights",
    plateau_patience="exceeded",
    plateau_threshold="relative",
    plateau_cooldown="silent",
)

SWITCHES = tuple(field.name for field in fields(Semantics))


def resolve_semantics(semantics: Literal["keras", "torch"], exceptions: list[str]) -> Semantics:
    """The values of ``semantics``, those of the other framework for the switches in ``exceptions``.

    Raises:
        ExperimentError: an exception is no switch; the message names the nearest.
    """
    base, other = (KERAS, TORCH) if semantics == "keras" else (TORCH, KERAS)
    for name in exceptions:
        if name not in SWITCHES:
            raise ExperimentError(f"model.semantics_except: unknown switch {name!r}{or_all(name, SWITCHES)}")
    return replace(base, **{name: getattr(other, name) for name in exceptions})
