"""What the Keras reference implements, as data that can be read without loading Keras."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from operator import attrgetter

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec, TricksSpec

PRECISIONS = {"32-true": "float32", "64-true": "float64", "bf16-mixed": "mixed_bfloat16"}
"""trainer.precision -> Keras's dtype policy."""

MODEL_SETTINGS = {
    "network",
    "backbone",
    "optimizer",
    "schedule",
    "label_smoothing",
    "early_stopping",
    "reduce_on_plateau",
    "best_by",
    "tricks",
    "init_from",
}
"""Settings below ``model`` that it reads. All others must be as they are by default, and so must all tricks but one
that means nothing without the others."""

ALSO: dict[str, object] = {"semantics_except": ["initialization"]}
"""A second value of a setting that it implements."""


def refuse_unimplemented(experiment: ExperimentSpec) -> None:
    """Raise ExperimentError for the first setting that the Keras reference would ignore."""
    names = [field.name for field in fields(ModelSpec) if field.name not in MODEL_SETTINGS]
    names += [f"tricks.{field.name}" for field in fields(TricksSpec) if field.name != "whitening_bias_epochs"]
    default = ModelSpec()
    for name in names:
        value, usual = attrgetter(name)(experiment.model), attrgetter(name)(default)
        if value not in (usual, ALSO.get(name, usual)):
            raise ExperimentError(
                f"the Keras reference does not implement model.{name}: {_yaml(value)}; leave it at {_yaml(usual)}"
            )
    trainer = experiment.trainer
    if trainer.precision not in PRECISIONS:
        raise ExperimentError(
            f"the Keras reference does not implement trainer.precision: {trainer.precision}; "
            f"set it to {' or '.join(PRECISIONS)}"
        )
    if experiment.model.optimizer.ema is not None and trainer.accumulate_grad_batches > 1:
        raise ExperimentError(
            "the Keras reference does not implement model.optimizer.ema with trainer.accumulate_grad_batches above 1: "
            "Keras averages the weights after every batch, not after every step"
        )
    if trainer.max_epochs < 1:
        raise ExperimentError(f"trainer.max_epochs must be at least 1, not {trainer.max_epochs}")


def _yaml(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).split("\n")[0]
