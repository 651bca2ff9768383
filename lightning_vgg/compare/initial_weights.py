"""One file of initial weights a seed, from which every arm of the same network and initialization starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.compare.plan import Arm, ComparisonPlan
from lightning_vgg.weights.neutral import write_neutral


def initial_weights(plan: ComparisonPlan, classes: Mapping[str, int], seeds: int) -> dict[tuple[str, int], str]:
    """(arm, seed) -> ``model.init_from`` of that run.

    Arms share a file where they have the same network and draw its weights alike; so those with PyTorch's semantics
    start from PyTorch's initialization. An arm with an ``init_from`` of its own keeps that.

    Args:
        plan: the comparison; the files lie in its initial_weights/.
        classes: arm -> number of classes of its data.
        seeds: how many.

    Raises:
        ExperimentError: a network cannot be built, or its backbone not loaded.
    """
    found = {}
    for arm, seed in plan.members(seeds):
        path = _path(plan, arm, seed, classes[arm.name])
        model = arm.experiment.model
        if model.init_from is None and not path.exists():
            from lightning_vgg.training.export import fresh_tensors  # loads torch, which takes seconds

            try:
                experiment = replace(arm.experiment, seed_everything=seed)
                tensors = fresh_tensors(experiment, classes[arm.name])
            except ExperimentError as error:
                raise ExperimentError(f"compare.arms.{arm.name}: {error}") from None
            write_neutral(path, tensors)
        found[arm.name, seed] = model.init_from or str(path)
    return found


def _path(plan: ComparisonPlan, arm: Arm, seed: int, classes: int) -> Path:
    model = arm.experiment.model
    what = {
        "network": asdict(model.network),
        "backbone": asdict(model.backbone) if model.backbone else None,
        "image_size": arm.experiment.image_size,
        "classes": classes,
    }
    digest = hashlib.sha256(yaml.safe_dump(what).encode()).hexdigest()[:8]
    drawn = model.resolved_semantics.initialization
    return plan.folder / "initial_weights" / f"{drawn}_{digest}_seed{seed}.safetensors"
