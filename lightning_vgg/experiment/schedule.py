"""ScheduleSpec -> one table of learning rates, a rate for every step: both frameworks read the same table."""

from __future__ import annotations

import numpy as np

from lightning_vgg.experiment.specs import ScheduleSpec


def rate_factors(schedule: ScheduleSpec, total_steps: int) -> np.ndarray:
    """Factors on the learning rate, float64 (total_steps,), each in [0, 1].

    The last step of ``linear``, ``cosine`` and ``one_cycle`` comes within one step of ``factor``.
    """
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
