"""The rungs: each measures how far the two frameworks differ in one respect, with a limit.

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

import numpy as np

from keras_reference.data import Preprocess, normalizer
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.draws import draw_epoch, mask_keys
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.specs import AugmentationSpec, ExperimentSpec, ModelSpec, OptimizerSpec, ScheduleSpec
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import Dataset, Split
from parity_tests.collected_batches import evaluation_batches, training_batches
from parity_tests.distance import Distance, distance
from parity_tests.evaluate import keras_scores, lightning_scores
from parity_tests.pair import (
    Batch,
    Pair,
    Precision,
    Side,
    Tensors,
    damped_scales,
    initial_tensors,
    parameters,
    statistics,
    without_idle_biases,
)
from parity_tests.whole_run import histories

MARGIN = 10.0
"""The limit of a rung, as a multiple of the control."""
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

    def as_dict(self) -> PlainDict:
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
        experiment: the network under test, whose own optimizer is one of those tried.
        dataset: its images.
    """

    def __init__(self, experiment: ExperimentSpec, dataset: Dataset) -> None:
        self.experiment = replace(experiment, model=replace(experiment.model, init_from=None))
        self.spec, self.data = self.experiment.model, experiment.data
        self.dataset = dataset
        self.classes = len(dataset.class_names)
        self.image_size, self.channels = experiment.image_size, 3

    def rungs(self) -> Iterator[Rung]:
        """Climb; each rung is yielded as soon as it is measured."""
        yield self.specification()
        yield self.initialization()
        yield self.preprocessing()
        yield self.augmentation()
        yield self.dropout()
        for precision in ("float64", "float32"):
            yield self.forward(precision)
            yield self.loss(precision)
            yield self.gradients(precision)
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

    def pair(self, precision: Precision) -> Pair:
        return Pair(self.spec, self.image_size, self.classes, precision, self.channels)

    def batches(self, count: int, precision: Precision) -> list[Batch]:
        """``count`` batches of the training images, again from the start where there are too few."""
        images, labels = self.dataset.train
        order = np.resize(draw_epoch(0, 0, len(labels), images.shape[1], AugmentationSpec()).index, count * BATCH)
        return [
            Batch(
                normalize(images[rows], self.dataset.normalization, np.dtype(precision)),
                labels[rows],
                mask_keys(seed=0, epoch=step, images=rows),
            )
            for step, rows in enumerate(np.split(order, count))
        ]

    # What must be equal exactly

    def specification(self) -> Rung:
        pair = self.pair("float32")
        counts = [
            sum(parameter.numel() for parameter in pair.torch.network.parameters()),
            sum(int(np.prod(variable.shape)) for variable in pair.keras.model.trainable_variables),
            pair.plan.trainable_parameters,
        ]
        if len(set(counts)) > 1:
            return exact("specification", Distance(float("inf"), f"parameters {counts}"))
        return exact("specification", distance(shapes(pair.torch.tensors()), shapes(pair.keras.tensors())))

    def initialization(self) -> Rung:
        """Spread of each tensor's initial values, in standard errors apart: by chance alone it stays below 5."""
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
        found = distance(*training_batches(lively, self.dataset, self.keras_preprocess()))
        return exact("order and augmentation", found)

    # What may differ by rounding

    def forward(self, precision: Precision) -> Rung:
        (batch,) = self.batches(1, precision)
        return self._rung("forward", precision, GATES["forward"], lambda side: {"logits": side.logits(batch)})

    def loss(self, precision: Precision) -> Rung:
        """Training mode; once more with logits so large that clipped probabilities would show."""
        (batch,) = self.batches(1, precision)
        sure = 40 * np.eye(self.classes)[(batch.labels + 1) % self.classes].astype(precision)

        def losses(side: Side) -> Tensors:
            return {"loss": side.loss(batch), "of sure logits": side.loss_of(sure, batch)}

        return self._rung("loss", precision, GATES["loss"], losses)

    def gradients(self, precision: Precision) -> Rung:
        (batch,) = self.batches(1, precision)
        return self._rung("gradients", precision, GATES["gradients"], lambda side: side.gradients(batch), damped=True)

    def dropout(self) -> Rung:
        """What each dropout layer makes of ones: the same masks, bit for bit, and the same factor for what is kept."""
        pair, (batch,) = self.pair("float64"), self.batches(1, "float64")
        return exact("dropout", distance(pair.torch.kept_units(batch), pair.keras.kept_units(batch)))

    def frozen(self, precision: Precision) -> Rung:
        """Three steps with the first block frozen: it must stay as it is, statistics included."""
        batches, rates = self.batches(3, precision), [2.0**-7] * 3
        first = next(iter(self.pair(precision).plan.blocks))

        def trained(side: Side) -> Tensors:
            before = {name: value for name, value in side.tensors().items() if name.startswith(f"{first}.")}
            side.freeze(first)
            for _ in side.steps(batches, OPTIMIZERS["sgd"][0], rates):
                pass
            after = side.tensors()
            moved = any(not np.array_equal(after[name], value) for name, value in before.items())
            return after | {"frozen tensors that moved": np.array(float("nan") if moved else 1.0)}

        return self._rung(f"frozen {first}, 3 steps", precision, GATES["sgd"], trained)

    def clipping(self, precision: Precision) -> Rung:
        """One step with the gradients' common norm clipped to about a hundredth of itself."""
        batches, optimizer = self.batches(1, precision), OPTIMIZERS["sgd"][0]
        rates = [1.0]  # so that the step is as large as the clipped gradient

        def moved(side: Side) -> Tensors:
            before = parameters(side.tensors())
            list(side.steps(batches, optimizer, rates, clip=2.0**-6))
            step = {name: value - before[name] for name, value in parameters(side.tensors()).items()}
            return without_idle_biases(step, side.plan)

        return self._rung("global-norm clipping", precision, GATES["clipping"], moved)

    def steps(self, name: str, precision: Precision) -> Iterator[Rung]:
        """Parameters after one step and after fifty, and the batch-norm statistics after fifty."""
        optimizer, schedule = self.optimizers()[name]
        rates = ModelSpec(optimizer=optimizer, schedule=schedule).learning_rates(STEPS)
        batches = self.batches(STEPS, precision)
        pair = self.pair(precision)

        def trajectory(side: Side, batches: list[Batch]) -> tuple[Tensors, Tensors]:
            steps = side.steps(batches, optimizer, rates)
            next(steps)
            first = side.tensors()
            for _ in steps:
                pass
            return first, side.tensors()

        twin = pair.torch.twin(nudge=0)  # fifty steps are dear, so there is one
        sides = [trajectory(pair.torch, batches), trajectory(pair.keras, batches)]
        found = self._trajectory_rungs(name, precision, optimizer, pair.plan, sides)
        # In float64 the gate tells enough, unless the network amplifies every rounding in fifty steps.
        if precision == "float32" or not all(rung.passed for rung in found):
            # Every step adds up anew, and torch one image after the other: a nudge at the start alone would be a tenth
            # of what the order of additions moves (lesson's network, 50 steps of SGD: 1.7e-13 against 1.9e-12).
            sides.append(trajectory(twin, [batch.backwards() for batch in batches]))
            found = self._trajectory_rungs(name, precision, optimizer, pair.plan, sides)
        yield from found

    def _trajectory_rungs(
        self,
        name: str,
        precision: Precision,
        optimizer: OptimizerSpec,
        plan: NetworkPlan,
        sides: Sequence[tuple[Tensors, Tensors]],
    ) -> list[Rung]:
        """Rungs of the tensors after the first and the last step: torch's, Keras's, then those of nudged copies."""
        found = []
        for when, label in enumerate(("1 step", f"{STEPS} steps")):
            for part, what, gate in (
                (parameters, label, GATES["adam" if optimizer.name != "sgd" else "sgd"]),
                (statistics, f"{label}, statistics", GATES["batch norm statistics"]),
            ):
                reference, other, *nudged = (without_idle_biases(part(side[when]), plan) for side in sides)
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
        some = replace(self.dataset, train=evenly(self.dataset.train, 500), test=evenly(self.dataset.test, EVALUATED))
        found = distance(*histories(replace(self.experiment, data=replace(self.data, batch_size=64)), some))
        return Rung("whole run, 1 epoch", "float64", *found, limit=1e-10)

    def _rung(
        self, name: str, precision: Precision, gate: Gate, measure: Callable[[Side], Tensors], damped: bool = False
    ) -> Rung:
        """How far ``measure`` of the two sides lies apart; in float32, beside three nudged copies of torch's."""
        pair = self.pair(precision)
        twins = [measure(pair.torch.twin(nudge)) for nudge in range(3)] if precision == "float32" else []
        ours, theirs = measure(pair.torch), measure(pair.keras)
        scales = damped_scales(ours, pair.plan) if damped else None
        control = max((distance(ours, twin, scales).value for twin in twins), default=None)
        return self._unless_kinks(verdict(name, precision, gate, distance(ours, theirs, scales), control))

    def _unless_kinks(self, rung: Rung) -> Rung:
        """A float32 rung that lies too far: only reported where rounding changed the sign of a ReLU's input."""
        if rung.passed or rung.precision != "float32" or not self.flipped_kinks:
            return rung
        return replace(rung, limit=float("inf"), worst=f"{rung.worst} ({self.flipped_kinks} kinks flipped)")

    @cached_property
    def flipped_kinks(self) -> int:
        """Activations of the first batch that are 0 in one framework and not in the other, float32."""
        return self.pair("float32").flipped_kinks(*self.batches(1, "float32"))


def evenly(part: Split, count: int) -> Split:
    """So many images from all over a part, whatever its order."""
    rows = np.linspace(0, len(part.labels) - 1, min(count, len(part.labels))).astype(int)
    return Split(part.images[rows], part.labels[rows])


def shapes(tensors: Tensors) -> Tensors:
    return {name: np.array(tensor.shape) for name, tensor in tensors.items()}


def verdict(name: str, precision: Precision, gate: Gate, found: Distance, control: float | None) -> Rung:
    limit = gate.float64 if precision == "float64" else gate.float32
    return Rung(name, precision, found.value, found.tensor, max(limit, MARGIN * (control or 0.0)), control)


def exact(name: str, found: Distance) -> Rung:
    return Rung(name, "exact", found.value, found.tensor, limit=0.0)
