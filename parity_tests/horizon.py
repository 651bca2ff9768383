"""How long do two trainings stay together? The distance of their weights and predictions, step by step.

Beside Keras and Lightning stands Lightning and itself with every weight moved by one unit in the last place: rounding
alone. In float32 and bfloat16 a network amplifies it until it is as large as the weights, in float64 it stays small for
thousands of steps. A wrong default is apart from the first step on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import Dataset
from lightning_vgg.training.weights import load_tensors
from parity_tests.distance import distance
from parity_tests.ladder import Ladder, evenly
from parity_tests.pair import Batch, Pair, Precision, Side, Tensors, TorchSide, parameters, without_idle_biases

STEPS = 200
POINTS = 24
"""Steps at which something is measured, evenly spread on a logarithmic axis."""
TESTED = 1000
PRECISIONS: tuple[Precision, ...] = ("float64", "float32", "bfloat16")
WRONG_DEFAULTS = ("batch_norm_variance", "adam_formula")


@dataclass(frozen=True)
class Horizon:
    """How far a training goes apart from Lightning's.

    Attributes:
        precision: float64, float32 or bfloat16 (mixed).
        arm: the other training.
        steps: where it was measured.
        weights: distance of the worst parameter there.
        predictions: share of the test images that are classified differently there.
        half: the first of the steps at which half as many are as at most; None if none ever is.
    """

    precision: str
    arm: str
    steps: list[int]
    weights: list[float]
    predictions: list[float]
    half: int | None


@dataclass(frozen=True)
class _Snapshot:
    tensors: Tensors
    predicted: np.ndarray


def measure_horizons(experiment: ExperimentSpec, dataset: Dataset, steps: int = STEPS) -> Iterator[Horizon]:
    """Train side by side in each precision, with the experiment's optimizer and schedule; yields arm after arm.

    A wrong default that means nothing to the experiment is left out.
    """
    ladder = Ladder(experiment, dataset)
    points = [int(point) for point in np.unique(np.geomspace(1, steps, POINTS).round())]
    for precision in PRECISIONS:
        dtype = "float64" if precision == "float64" else "float32"
        batches = ladder.batches(steps, dtype)
        part = evenly(dataset.test, TESTED)
        images = normalize(part.images, dataset.normalization, np.dtype(dtype))
        test = Batch(images, part.labels, mask_keys=np.zeros(len(part.labels), np.int64))
        pair = ladder.pair(precision)
        others: dict[str, Side] = {"Keras": pair.keras, "one ulp": pair.torch.twin(nudge=0)}
        others |= {switch: _with_switch(pair, switch, precision) for switch in WRONG_DEFAULTS}

        def train(side: Side) -> list[_Snapshot]:
            return list(_snapshots(side, ladder.spec, batches, test, points, precision))  # noqa: B023

        reference = train(pair.torch)
        for arm, side in others.items():
            found = _compare(pair, precision, arm, points, reference, train(side))
            if arm not in WRONG_DEFAULTS or found.weights[-1]:
                yield found


def _with_switch(pair: Pair, switch: str, precision: Precision) -> TorchSide:
    """Lightning from the same weights, with one of PyTorch's defaults."""
    spec = replace(pair.spec, semantics_except=[switch])
    side = TorchSide(spec, pair.plan, precision)
    load_tensors("torch's network", side.network, pair.torch.tensors())
    return side


def _snapshots(
    side: Side, spec: ModelSpec, batches: Sequence[Batch], test: Batch, points: Sequence[int], precision: Precision
) -> Iterator[_Snapshot]:
    rates = spec.learning_rates(len(batches))
    training = side.steps(batches, spec.optimizer, rates)
    for step in range(1, len(batches) + 1):
        with _arithmetic(side, precision):
            next(training)
            if step in points:
                yield _Snapshot(parameters(side.tensors()), side.logits(test).argmax(1))


def _arithmetic(side: Side, precision: Precision) -> AbstractContextManager[object]:
    if precision == "bfloat16" and isinstance(side, TorchSide):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def _compare(
    pair: Pair, precision: str, arm: str, points: list[int], reference: Sequence[_Snapshot], other: Sequence[_Snapshot]
) -> Horizon:
    snapshots = list(zip(reference, other, strict=True))
    apart = [
        distance(without_idle_biases(ours.tensors, pair.plan), without_idle_biases(theirs.tensors, pair.plan)).value
        for ours, theirs in snapshots
    ]
    differing = [float((ours.predicted != theirs.predicted).mean()) for ours, theirs in snapshots]
    half = next((step for step, share in zip(points, differing, strict=True) if share >= max(differing) / 2), None)
    return Horizon(precision, arm, points, apart, differing, half if max(differing) else None)
