"""ScheduleSpec -> one table of learning rates, a rate for every step: both frameworks read the same table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.nulls import refuse_null

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate moves, step by step.

    Args:
        name: constant; step: times ``factor`` at each of ``milestones``; linear, cosine: down to ``factor`` times the
            rate, along a line or a cosine; one_cycle: up to the rate at ``warmup``, then down to ``factor`` times the
            rate, both along a cosine.
        warmup: share of the training in which the rate rises linearly from near 0 (one_cycle: up to its peak).
        milestones: of step: shares of the training, such as 0.5 and 0.75.
        factor: see name.
    """

    name: Literal["constant", "step", "linear", "cosine", "one_cycle"] = "constant"
    warmup: float = 0.0
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    factor: float = 0.1

    def __post_init__(self) -> None:
        refuse_null(self, "schedule")
        if not 0 <= self.warmup < 1:
            raise ExperimentError(f"schedule.warmup is a share of the training in [0, 1), not {self.warmup}")
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ExperimentError(f"schedule.milestones are shares of the training in (0, 1), not {self.milestones}")
        if not 0 <= self.factor <= 1:
            raise ExperimentError(f"schedule.factor lies in [0, 1], not {self.factor}")


def rate_factors(schedule: ScheduleSpec, total_steps: int) -> np.ndarray:
    """Factors on the learning rate, float64 (total_steps,), each in [0, 1].

    The last step of ``linear``, ``cosine`` and ``one_cycle`` comes within one step of ``factor``.
    """
    import numpy as np  # lazily, since --help can do without it

    step = np.arange(total_steps)
    warmup_steps = round(schedule.warmup * total_steps)
    progress = np.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0, 1)
    warmup = np.minimum((step + 1) / (warmup_steps + 1), 1)
    match schedule.name:
        case "constant":
            factors = np.ones(total_steps)
        case "step":
            passed = np.searchsorted(np.round(np.sort(schedule.milestones) * total_steps), step, side="right")
            factors = schedule.factor ** passed.astype(np.float64)
        case "linear":
            factors = 1 - (1 - schedule.factor) * progress
        case "cosine" | "one_cycle":
            factors = schedule.factor + (1 - schedule.factor) * (1 + np.cos(np.pi * progress)) / 2
    if schedule.name == "one_cycle":
        warmup = (1 - np.cos(np.pi * warmup)) / 2
    return factors * warmup
