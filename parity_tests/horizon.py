"""How long do two trainings stay together? The distance of their weights and predictions, step by step.

Beside Keras and Lightning stands rounding alone: Lightning and itself, with every weight moved by one unit in the last
place at the start, and by other kernels at every step. In float32 and bfloat16 a network amplifies it until it is as
large as the weights, in float64 it stays small for thousands of steps. A wrong default is apart from the first step on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import Dataset
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.kernels import reordered
from lightning_vgg.training.weights import load_tensors
from parity_tests.distance import distance
from parity_tests.ladder import Ladder, evenly
from parity_tests.pair import (
    Batch,
    Pair,
    Precision,
    Side,
    Tensors,
    TorchSide,
    parameters,
    weights_dtype,
    without_idle_biases,
)

STEPS = 200
POINTS = 24
"""Steps at which something is measured, evenly spread on a logarithmic axis."""
TESTED = 1000
PRECISIONS: tuple[Precision, ...] = ("float64", "float32", "bfloat16")
WRONG_DEFAULTS = ("batch_norm_epsilon", "adam_formula")


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
    ladder, accumulated = Ladder(experiment, dataset), experiment.trainer.accumulate_grad_batches
    points = [int(point) for point in np.unique(np.geomspace(1, steps, POINTS).round())]
    for precision in PRECISIONS:
        dtype = weights_dtype(precision)
        part = evenly(dataset.test, TESTED)
        images = normalize(part.images, dataset.normalization, np.dtype(dtype))
        test = Batch(images, part.labels, mask_keys=np.zeros(len(part.labels), np.int64))
        batches = ladder.batches(steps * accumulated, dtype)
        course = _Course(ladder.spec, batches, accumulated, test, points, precision)
        pair = ladder.pair(precision)
        others: dict[str, Side] = {
            "Keras": pair.keras,
            "one ulp": _nudged(pair.torch),
            "other kernels": pair.torch.twin(),
            **{switch: _with_switch(pair, switch) for switch in WRONG_DEFAULTS},
        }
        reference = course.run(pair.torch)
        for arm, side in others.items():
            found = _compare(pair, precision, arm, points, reference, course.run(side, arm == "other kernels"))
            if arm not in WRONG_DEFAULTS or found.weights[-1]:
                yield found


@dataclass(frozen=True)
class _Course:
    """What every arm goes through."""

    spec: ModelSpec
    batches: Sequence[Batch]
    accumulated: int
    test: Batch
    points: Sequence[int]
    precision: Precision

    def run(self, side: Side, other_kernels: bool = False) -> list[_Snapshot]:
        """Train; a snapshot at each of the points."""
        steps = len(self.batches) // self.accumulated
        rates = self.spec.learning_rates(steps)
        training = side.steps(self.batches, self.spec.optimizer, rates, accumulated=self.accumulated)
        found = []
        for step in range(1, steps + 1):
            with ExitStack() as arithmetic:
                if self.precision == "bfloat16" and isinstance(side, TorchSide):
                    arithmetic.enter_context(torch.autocast("cpu", torch.bfloat16))
                if other_kernels:
                    arithmetic.enter_context(reordered())
                next(training)
                if step in self.points:
                    found.append(_Snapshot(parameters(side.tensors()), side.logits(self.test).argmax(1)))
        return found


def _nudged(side: TorchSide) -> TorchSide:
    """A copy with every weight one unit in the last place up or down."""
    twin = side.twin()
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.network.parameters():
        up = torch.rand(parameter.shape, generator=generator) < 0.5
        parameter.data = torch.nextafter(parameter.data, torch.where(up, torch.inf, -torch.inf).to(parameter))
    return twin


def _with_switch(pair: Pair, switch: str) -> TorchSide:
    """Lightning from the same weights, with one of PyTorch's defaults."""
    side = pair.torch.twin()
    side.semantics = replace(pair.spec, semantics_except=[switch]).resolved_semantics
    side.network = build_network(pair.plan, side.semantics).to(next(side.network.parameters()).dtype)
    load_tensors("torch's network", side.network, pair.torch.tensors())
    return side


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
