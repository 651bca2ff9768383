"""The rungs: each measures how far the two frameworks lie apart in one thing, and says how far they may.

In float64 only the order of additions sets two right implementations apart, and a rung passes below a gate set
beforehand. Fifty steps can lead past it, so a control is measured there: torch against itself with every weight moved
by one unit in the last place (ulp) and the images of every batch in reverse, which changes nothing but the order of
additions; a rung may reach ten times that, too.

In float32 the control stands beside every rung. A ReLU whose input changes sign by rounding moves gradients by far more
than either; where one is found between the frameworks the distance is reported, not gated. So it is after fifty
steps, where chaos decides, and after one step of Adam in a network with batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from keras_reference.data import Preprocess, normalizer
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.schedule import rate_factors
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec, ModelSpec, OptimizerSpec, ScheduleSpec
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import Dataset, Split
from parity_tests.collected_batches import evaluation_batches, training_batches
from parity_tests.distance import Distance, distance
from parity_tests.evaluate import keras_scores, lightning_scores
from parity_tests.masks import keras_kept_values, keras_masks, torch_kept_values, torch_masks
from parity_tests.pair import (
    Batch,
    Pair,
    Precision,
    Tensors,
    damped_scales,
    initial_tensors,
    parameters,
    statistics,
    without_idle_biases,
)
from parity_tests.whole_run import histories

MARGIN = 10.0
"""How many times the control a rung may reach."""
BATCH = 32
STEPS = 50
EVALUATED = 200

_NESTEROV = OptimizerSpec(name="sgd", learning_rate=2.0**-7, momentum=0.875, nesterov=True, weight_decay=5e-4)
_ADAMW = OptimizerSpec(name="adamw", learning_rate=1e-3, weight_decay=0.01, decay_all=False)
OPTIMIZERS = {
    # The rate and the momentum for which the gates were set: larger ones amplify rounding more in fifty steps.
    "sgd": (OptimizerSpec(name="sgd", learning_rate=2.0**-7, momentum=0.875), ScheduleSpec()),
    "nesterov": (_NESTEROV, ScheduleSpec("one_cycle", warmup=0.3)),
    "adam": (OptimizerSpec(name="adam", learning_rate=1e-3), ScheduleSpec()),
    "adamw": (_ADAMW, ScheduleSpec("cosine")),
}


@dataclass(frozen=True)
class Rung:
    """What a rung found.

    Attributes:
        name: of the rung.
        precision: float64, float32, or exact where nothing may differ.
        measured: the distance.
        worst: the tensor that lies farthest apart.
        limit: the largest distance that passes; infinite where the distance is reported, not gated.
        control: torch to itself with every weight moved by one ulp, where measured; of one batch, the largest of three;
            of fifty steps, with their images in reverse, too.
    """

    name: str
    precision: str
    measured: float
    worst: str
    limit: float
    control: float | None = None

    @property
    def passed(self) -> bool:
        return self.measured <= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Gate:
    """The distance that two right implementations stay below."""

    float64: float
    float32: float


GATES = {
    "forward": Gate(1e-13, 1e-6),
    "loss": Gate(1e-13, 1e-6),
    "gradients": Gate(1e-12, 5e-5),
    "sgd": Gate(1e-12, 5e-5),
    "adam": Gate(1e-10, 1e-5),
    "batch norm statistics": Gate(1e-12, 1e-5),
    "clipping": Gate(1e-10, 1e-3),  # small steps on large weights cost digits
}
"""Set beforehand, from throw-away ports of a VGG of six convolutions: five to a hundred times what those measured."""


class Ladder:
    """All rungs for one experiment.

    Args:
        spec: the network under test; its own optimizer is one of those tried.
        data: the images.
        image_size: pixels a side.
    """

    def __init__(self, spec: ModelSpec, data: DataSpec, dataset: Dataset) -> None:
        self.spec = replace(spec, init_from=None)
        self.data = data
        self.dataset = dataset
        self.classes = len(dataset.class_names)
        self.image_size, self.channels = data.image_size, 3

    def rungs(self) -> Iterator[Rung]:
        """Climb; each rung is yielded as soon as it is measured."""
        yield self.specification()
        yield self.initialization()
        yield self.preprocessing()
        yield self.augmentation()
        for precision in ("float64", "float32"):
            yield self.forward(precision)
            yield self.loss(precision)
            yield self.gradients(precision)
            yield self.dropout(precision)
            yield self.frozen(precision)
            yield self.clipping(precision)
            for name in self.optimizers():
                yield from self.steps(name, precision)
        yield self.evaluation()
        yield self.whole_run()

    def optimizers(self) -> dict[str, tuple[OptimizerSpec, ScheduleSpec]]:
        """Those that are always tried, and the experiment's own where it is another one."""
        own = (self.spec.optimizer, self.spec.schedule)
        return OPTIMIZERS if own in OPTIMIZERS.values() else {**OPTIMIZERS, "own": own}

    def pair(self, precision: Precision, dropout: bool = False) -> Pair:
        return Pair(self.spec, self.image_size, self.classes, precision, dropout, self.channels)

    def batches(self, count: int, precision: Precision) -> list[Batch]:
        """``count`` batches of the training images, again from the start where there are too few."""
        images, labels = self.dataset.train
        order = np.resize(draw_epoch(0, 0, len(labels), images.shape[1], AugmentationSpec()).index, count * BATCH)
        return [
            Batch(normalize(images[rows], self.dataset.normalization, np.dtype(precision)), labels[rows])
            for rows in np.split(order, count)
        ]

    # What must be equal exactly

    def specification(self) -> Rung:
        pair = self.pair("float32")
        ours = {name: np.array(tensor.shape) for name, tensor in pair.torch_tensors().items()}
        theirs = {name: np.array(tensor.shape) for name, tensor in pair.keras_tensors().items()}
        counts = [
            sum(parameter.numel() for parameter in pair.torch_network.parameters()),
            sum(int(np.prod(variable.shape)) for variable in pair.keras_model.trainable_variables),
            pair.plan.trainable_parameters,
        ]
        found = distance(ours, theirs)
        return exact(
            "specification", found if len(set(counts)) == 1 else Distance(float("inf"), f"parameters {counts}")
        )

    def initialization(self) -> Rung:
        """Spread of each tensor's initial values, in standard errors apart: chance alone stays below 5."""
        ours, theirs = initial_tensors(self.spec, self.image_size, self.classes)
        worst = Distance(0.0, "")
        for name, tensor in ours.items():
            other = theirs[name]
            if tensor.std() == 0 or other.std() == 0:  # constants: equal or not
                apart = 0.0 if np.array_equal(tensor, other) else float("inf")
            else:
                # The variance of a sample variance of uniform numbers is 0.8 σ⁴/n.
                apart = abs(np.log(tensor.var() / other.var())) / np.sqrt(2 * 0.8 / tensor.size)
            worst = max(worst, Distance(float(apart), name))
        return Rung("initialization (standard errors)", "float32", worst.value, worst.tensor, limit=5.0)

    def preprocessing(self) -> Rung:
        """The evaluation batch of either side, bit for bit."""
        return exact("preprocessing", distance(*evaluation_batches(self.data, self.dataset, self.keras_preprocess())))

    def keras_preprocess(self) -> Preprocess:
        """What Keras does to pixels, in RGB and float32."""
        return normalizer(self.dataset.normalization, "float32")

    def augmentation(self) -> Rung:
        """Two epochs of training batches of either side, bit for bit: order, flips, shifts and cutout."""
        lively = replace(self.data, augmentation=AugmentationSpec(flip=True, shift=4, cutout=8))
        return exact(
            "order and augmentation", distance(*training_batches(lively, self.dataset, self.keras_preprocess()))
        )

    # What may differ by rounding

    def forward(self, precision: Precision) -> Rung:
        (batch,) = self.batches(1, precision)
        return self._rung(
            "forward",
            precision,
            GATES["forward"],
            ours=lambda pair: {"logits": pair.torch_logits(batch)},
            theirs=lambda pair: {"logits": pair.keras_logits(batch)},
        )

    def loss(self, precision: Precision) -> Rung:
        """Training mode; once more with logits so large that clipped probabilities would show."""
        (batch,) = self.batches(1, precision)
        logits = 40 * np.eye(self.classes)[(batch.labels + 1) % self.classes].astype(precision)

        def ours(pair: Pair) -> Tensors:
            return {
                "loss": pair.torch_loss(batch).detach().numpy(),
                "of sure logits": pair.torch_loss_of(logits, batch),
            }

        return self._rung(
            "loss",
            precision,
            GATES["loss"],
            ours,
            theirs=lambda pair: {"loss": pair.keras_loss(batch), "of sure logits": pair.keras_loss_of(logits, batch)},
        )

    def gradients(self, precision: Precision) -> Rung:
        (batch,) = self.batches(1, precision)
        return self._rung(
            "gradients",
            precision,
            GATES["gradients"],
            ours=lambda pair: pair.torch_gradients(batch),
            theirs=lambda pair: pair.keras_gradients(batch),
            damped=True,
        )

    def dropout(self, precision: Precision) -> Rung:
        """Gradients with the same masks in both, and what either framework multiplies the kept values by."""
        (batch,) = self.batches(1, precision)

        def ours(pair: Pair) -> Tensors:
            with torch_masks(pair.plan, BATCH):
                gradients = pair.torch_gradients(batch)
            return gradients | torch_kept_values(pair.torch_network)

        def theirs(pair: Pair) -> Tensors:
            with keras_masks(pair.plan, BATCH):
                gradients = pair.keras_gradients(batch)
            return gradients | keras_kept_values(pair.keras_model)

        return self._rung("dropout, masks injected", precision, GATES["gradients"], ours, theirs, True, damped=True)

    def frozen(self, precision: Precision) -> Rung:
        """Three steps with the first block frozen: it must stay as it is, statistics included."""
        batches, rates = self.batches(3, precision), [2.0**-7] * 3
        first = next(iter(self.pair(precision).plan.blocks))

        def after(pair: Pair, steps: Callable[..., Iterator[None]], tensors: Callable[[], Tensors]) -> Tensors:
            before = {name: value for name, value in tensors().items() if name.startswith(f"{first}.")}
            pair.freeze(first)
            for _ in steps(batches, OPTIMIZERS["sgd"][0], rates):
                pass
            moved = sum(not np.array_equal(tensors()[name], value) for name, value in before.items())
            return {**tensors(), "frozen tensors that moved": np.array(float("nan") if moved else 1.0)}

        return self._rung(
            f"frozen {first}, 3 steps",
            precision,
            GATES["sgd"],
            ours=lambda pair: after(pair, pair.torch_steps, pair.torch_tensors),
            theirs=lambda pair: after(pair, pair.keras_steps, pair.keras_tensors),
        )

    def clipping(self, precision: Precision) -> Rung:
        """One step with the gradients' common norm clipped to about a hundredth of itself."""
        batches, optimizer = self.batches(1, precision), OPTIMIZERS["sgd"][0]
        rates = [1.0]  # so that the step is as large as the clipped gradient

        def moved(pair: Pair, steps: Callable[..., Iterator[None]], tensors: Callable[[], Tensors]) -> Tensors:
            before = parameters(tensors())
            list(steps(batches, optimizer, rates, clip=2.0**-6))
            step = {name: value - before[name] for name, value in parameters(tensors()).items()}
            return without_idle_biases(step, pair.plan)

        return self._rung(
            "global-norm clipping",
            precision,
            GATES["clipping"],
            ours=lambda pair: moved(pair, pair.torch_steps, pair.torch_tensors),
            theirs=lambda pair: moved(pair, pair.keras_steps, pair.keras_tensors),
        )

    def steps(self, name: str, precision: Precision) -> Iterator[Rung]:
        """Parameters after one step and after fifty, and the batch-norm statistics after fifty."""
        optimizer, schedule = self.optimizers()[name]
        rates = rate_factors(schedule, STEPS) * optimizer.learning_rate
        batches = self.batches(STEPS, precision)
        pair = self.pair(precision)

        def trajectory(steps: Iterator[None], tensors: Callable[[], Tensors]) -> tuple[Tensors, Tensors]:
            next(steps)
            first = tensors()
            for _ in steps:
                pass
            return first, tensors()

        twin = pair.torch_twin(nudge=0)  # fifty steps are dear, so there is one
        # Every step adds up anew, and torch one image after the other: a nudge at the start alone would be a tenth of
        # what the order of additions moves (lesson's network, 50 steps of SGD: 1.7e-13 against 1.9e-12).
        backwards = [Batch(batch.images[::-1].copy(), batch.labels[::-1].copy()) for batch in batches]
        sides = [
            trajectory(pair.torch_steps(batches, optimizer, rates), pair.torch_tensors),
            trajectory(pair.keras_steps(batches, optimizer, rates), pair.keras_tensors),
        ]
        found = self._trajectory_rungs(name, precision, optimizer, pair, sides)
        # In float64 the gate tells enough, unless the network amplifies every rounding in fifty steps.
        if precision == "float32" or not all(rung.passed for rung in found):
            sides.append(trajectory(twin.torch_steps(backwards, optimizer, rates), twin.torch_tensors))
            found = self._trajectory_rungs(name, precision, optimizer, pair, sides)
        yield from found

    def _trajectory_rungs(
        self,
        name: str,
        precision: Precision,
        optimizer: OptimizerSpec,
        pair: Pair,
        sides: Sequence[tuple[Tensors, Tensors]],
    ) -> list[Rung]:
        """Rungs of the tensors after the first and the last step: torch's, Keras's, then those of nudged copies."""
        found = []
        for when, label in enumerate(("1 step", f"{STEPS} steps")):
            for part, what, gate in (
                (parameters, label, GATES["adam" if optimizer.name != "sgd" else "sgd"]),
                (statistics, f"{label}, statistics", GATES["batch norm statistics"]),
            ):
                reference, other, *nudged = (without_idle_biases(part(side[when]), pair.plan) for side in sides)
                if not reference:
                    continue
                control = max((distance(reference, twin).value for twin in nudged), default=None)
                rung = verdict(f"{name}, {what}", precision, gate, distance(reference, other), control)
                # Where a batch norm makes a gradient nearly 0, Adam divides its rounding by its own size.
                amplified = optimizer.name != "sgd" and bool(statistics(sides[0][when]))
                chaotic = precision == "float32" and (when == 1 or amplified)
                found.append(replace(rung, limit=float("inf")) if chaotic else self._unless_kinks(rung))
        return found

    def evaluation(self) -> Rung:
        """Loss and accuracy of the test images by either side's own loop, float64; the last batch is a smaller one."""
        part = Split(self.dataset.test.images[:EVALUATED], self.dataset.test.labels[:EVALUATED])
        data = replace(self.data, eval_batch_size=EVALUATED // 3 - 1)
        pair = self.pair("float64")
        dataset = replace(self.dataset, val=part)
        found = distance(lightning_scores(pair, data, dataset), keras_scores(pair, data, dataset))
        return verdict("evaluation", "float64", GATES["loss"], found, None)

    def whole_run(self) -> Rung:
        """One epoch of 500 images by either command line, float64: the histories, and the test of 200 images."""
        some = replace(self.dataset, train=_evenly(self.dataset.train, 500), test=_evenly(self.dataset.test, EVALUATED))
        return Rung(
            "whole run, 1 epoch",
            "float64",
            *distance(*histories(self.spec, replace(self.data, batch_size=64), some)),
            limit=1e-10,
        )

    def _rung(
        self,
        name: str,
        precision: Precision,
        gate: Gate,
        ours: Callable[[Pair], Tensors],
        theirs: Callable[[Pair], Tensors],
        dropout: bool = False,
        damped: bool = False,
    ) -> Rung:
        pair = self.pair(precision, dropout)
        twins = [ours(twin) for twin in _twins(pair)]
        reference = ours(pair)
        scales = damped_scales(reference, pair.plan) if damped else None
        control = max(distance(reference, twin, scales).value for twin in twins) if twins else None
        return self._unless_kinks(verdict(name, precision, gate, distance(reference, theirs(pair), scales), control))

    def _unless_kinks(self, rung: Rung) -> Rung:
        """A float32 rung that lies too far: only reported where rounding changed the sign of a ReLU's input."""
        if rung.passed or rung.precision != "float32" or not self.flipped_kinks:
            return rung
        return replace(rung, limit=float("inf"), worst=f"{rung.worst} ({self.flipped_kinks} kinks flipped)")

    @cached_property
    def flipped_kinks(self) -> int:
        """Activations of the first batch that are 0 in one framework and not in the other, float32."""
        return self.pair("float32").flipped_kinks(*self.batches(1, "float32"))


def _evenly(part: Split, count: int) -> Split:
    """So many images from all over a part, whatever its order."""
    rows = np.linspace(0, len(part.labels) - 1, min(count, len(part.labels))).astype(int)
    return Split(part.images[rows], part.labels[rows])


def _twins(pair: Pair) -> list[Pair]:
    return [pair.torch_twin(nudge=seed) for seed in range(3)] if pair.precision == "float32" else []


def verdict(name: str, precision: Precision, gate: Gate, found: Distance, control: float | None) -> Rung:
    limit = gate.float64 if precision == "float64" else gate.float32
    return Rung(name, precision, found.value, found.tensor, max(limit, MARGIN * (control or 0.0)), control)


def exact(name: str, found: Distance) -> Rung:
    return Rung(name, "exact", found.value, found.tensor, limit=0.0)
