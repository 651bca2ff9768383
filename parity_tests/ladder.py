"""The rungs: each measures how far the two frameworks differ in one respect, with a limit.

Only the order of additions sets two right implementations apart. How far, a control says: torch against itself, the
same arithmetic by other kernels (`kernels`). A rung passes below a gate set beforehand, or below ten times its control.

In float32 rounding can turn round what a gradient depends on, the sign of a ReLU's input or the largest pixel of a
window, and then moves it by far more. So gradients and one step are measured on a batch where nothing turns. Fifty
steps in float32 are decided by chaos; they are reported beside their control, without a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from keras_reference.data import Preprocess, normalizer
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.draws import draw_epoch, mask_keys
from lightning_vgg.experiment.specs import (
    LIVELY,
    AugmentationSpec,
    ExperimentSpec,
    ModelSpec,
    OptimizerSpec,
    ScheduleSpec,
)
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import Dataset, Split
from lightning_vgg.training.kernels import OTHER_KERNELS, Kernels
from parity_tests.collected_batches import evaluation_batches, training_batches
from parity_tests.distance import Distance, distance
from parity_tests.evaluate import keras_scores, lightning_scores
from parity_tests.pair import (
    Batch,
    Pair,
    Precision,
    Side,
    Tensors,
    TorchSide,
    damped_scales,
    initial_tensors,
    parameters,
    statistics,
    without_idle_biases,
)
from parity_tests.patience import plateau_rates, stopping_epochs
from parity_tests.squares import squares
from parity_tests.whole_run import whole_runs

Measured = TypeVar("Measured")

MARGIN = 10.0
"""The limit of a rung, as a multiple of the control."""
BATCH = 32
SMALL_BATCHES = 8, 4, 2
"""Images in those tried in float32: the fewer, the fewer ReLUs whose input lies at zero but for rounding."""
CANDIDATES = 8
"""Batches of each size."""
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
class Report:
    """A distance without a verdict.

    Attributes:
        name: of what was measured.
        precision: float64, float32, or exact where nothing may differ.
        measured: the distance.
        worst: the tensor that lies farthest apart.
        control: the largest distance of torch to itself by other kernels, where measured.
    """

    name: str
    precision: str
    measured: float
    worst: str
    control: float | None

    def as_dict(self) -> PlainDict:
        return asdict(self)


@dataclass(frozen=True)
class Rung(Report):
    """A distance and the largest one that passes."""

    limit: float

    @property
    def passed(self) -> bool:
        return self.measured <= self.limit

    def as_dict(self) -> PlainDict:
        return {**super().as_dict(), "passed": self.passed}


@dataclass(frozen=True)
class SmallBatch:
    """A batch for float32.

    Attributes:
        size: images in it.
        number: among the candidates of that size.
        flips: gradients that take another path in Keras.
        own_flips: those that do so in torch by other kernels.
    """

    size: int
    number: int
    flips: int
    own_flips: int


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


GREY_LEVELS = {"Keras": 0.5 + 5e-3, "torchvision": 1 + 1e-3}
"""Of 0 to 255. Keras and torchvision give floats: files are rounded to whole levels; by Pillow twice, first along the
rows and then along the columns. The rest is for float32, in which Keras places pixels, and for Pillow's weights of 22
bits.
"""


def search_small_batch(flips: Callable[[int, int], tuple[int, int]]) -> SmallBatch:
    """The first on which no gradient takes another path; else one where torch agrees with itself; else any.

    Where a right port flips something, other kernels of torch do so, too, about as often. If these agree with torch on
    half of all candidates and Keras on none, it is not rounding, and the search ends.

    Args:
        flips: size and number of a candidate -> gradients with another path in Keras, and in torch by other kernels.
    """
    found = []
    for size in SMALL_BATCHES:
        for number in range(CANDIDATES):
            small = SmallBatch(size, number, *flips(size, number))
            if not (small.flips or small.own_flips):
                return small
            found.append(small)
            steady = [small for small in found if not small.own_flips]
            if 2 * len(steady) >= CANDIDATES * len(SMALL_BATCHES):
                return min(steady, key=lambda small: small.flips)
    return min(found, key=lambda small: (small.own_flips == 0, small.own_flips + small.flips))


class Ladder:
    """All rungs for one experiment.

    Args:
        experiment: the network under test, whose own optimizer is one of those tried.
        dataset: its images.
        device: where torch computes; Keras computes where its backend does.
    """

    def __init__(self, experiment: ExperimentSpec, dataset: Dataset, device: str = "cpu") -> None:
        self.device = device
        self.experiment = replace(experiment, model=replace(experiment.model, init_from=None))
        self.spec, self.data = self.experiment.model, experiment.data
        self.dataset = dataset
        self.classes = len(dataset.class_names)
        self.image_size, self.channels = experiment.image_size, experiment.data.channels
        self.seed = experiment.seed_everything
        self.lively = replace(self.data, augmentation=LIVELY)

    def rungs(self) -> Iterator[Report]:
        """Climb; each rung, or report, is yielded as soon as it is measured."""
        yield self.specification()
        yield self.initialization()
        yield from self.squares()
        yield self.preprocessing()
        yield self.augmentation()
        yield self.dropout()
        yield from self.patience()
        for precision in ("float64", "float32"):
            yield self.forward(precision)
            yield self.loss(precision)
            if precision == "float32":
                yield self.steady_gradients()
            yield self.gradients(precision)
            yield self.frozen(precision)
            yield self.clipping(precision)
            for name in self.optimizers():
                yield from self.steps(name, precision)
        yield from self.accumulation()
        yield from self.averaging()
        yield self.evaluation()
        yield self.whole_run()

    def optimizers(self) -> dict[str, tuple[OptimizerSpec, ScheduleSpec]]:
        """Those that are always tried, and the experiment's own where it is another one."""
        own = (self.spec.optimizer, self.spec.schedule)
        return OPTIMIZERS if own in OPTIMIZERS.values() else {**OPTIMIZERS, "own": own}

    def pair(self, precision: Precision) -> Pair:
        weights = self.dataset.class_weights
        return Pair(self.spec, self.image_size, self.classes, precision, self.seed, self.channels, weights, self.device)

    def batches(self, count: int, precision: Precision, size: int = BATCH) -> list[Batch]:
        """``count`` batches of the training images, again from the start where there are too few."""
        images, labels = self.dataset.train
        order = draw_epoch(self.seed, 0, len(labels), images.shape[1], AugmentationSpec()).index
        return [
            Batch(
                normalize(images[rows], self.dataset.normalization, np.dtype(precision)),
                labels[rows],
                mask_keys(self.seed, step, rows),
            )
            for step, rows in enumerate(np.split(np.resize(order, count * size), count))
        ]

    @cached_property
    def small_batch(self) -> SmallBatch:
        """For float32."""
        return self.search(self.pair("float32").flips)

    def search(self, flips: Callable[[Batch], tuple[int, int]]) -> SmallBatch:
        """Search the batches of this experiment; ``flips`` counts in Keras, and in torch by other kernels."""
        return search_small_batch(lambda size, number: flips(self.candidate(size, number)))

    def candidate(self, size: int, number: int) -> Batch:
        return self.batches(CANDIDATES, "float32", size)[number]

    def batch(self, precision: Precision) -> Batch:
        """The one on which gradients are measured."""
        if precision == "float64":
            return self.batches(1, precision)[0]
        return self.candidate(self.small_batch.size, self.small_batch.number)

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
        ours, theirs = initial_tensors(self.spec, self.pair("float32").plan, self.seed)
        worst = Distance(0.0, "")
        for name, tensor in ours.items():
            other = theirs[name]
            if tensor.std() == 0 or other.std() == 0:  # constants: equal or not
                apart = 0.0 if np.array_equal(tensor, other) else float("inf")
            else:
                # The variance of a sample variance of uniform numbers is 0.8 σ⁴/n.
                apart = abs(np.log(tensor.var() / other.var())) / np.sqrt(2 * 0.8 / tensor.size)
            worst = max(worst, Distance(float(apart), name))
        return Rung("initialization (standard errors)", "float32", *worst, control=None, limit=5.0)

    def squares(self) -> Iterator[Rung]:
        """Image files of odd shapes made square: without antialiasing as Keras does it, with it as torchvision does."""
        for mode, reference, ours, theirs in squares(self.dataset.train.images):
            found = distance(ours, theirs, dict.fromkeys(ours, 1.0))
            name = f"{mode} as {reference} (grey levels)"
            yield Rung(name, "float32", *found, control=None, limit=GREY_LEVELS[reference])

    def preprocessing(self) -> Rung:
        """The evaluation batch of either side, bit for bit."""
        return exact("preprocessing", distance(*evaluation_batches(self.data, self.dataset, self.keras_preprocess())))

    def keras_preprocess(self) -> Preprocess:
        """What Keras does to pixels, in RGB and float32."""
        return normalizer(self.dataset.normalization, "float32")

    def augmentation(self) -> Rung:
        """Two epochs of training batches of either side, bit for bit: the order and every augmentation, labels too."""
        found = distance(*training_batches(self.lively, self.dataset, self.keras_preprocess()))
        return exact("order and augmentation", found)

    def patience(self) -> Iterator[Rung]:
        """Early stopping and lowering of the rate, where the experiment has them, beside Keras's own callbacks."""
        if self.spec.early_stopping is not None:
            yield exact("early stopping", distance(*stopping_epochs(self.spec.early_stopping)))
        if self.spec.reduce_on_plateau is not None:
            found = distance(*plateau_rates(self.spec))
            yield verdict("reduce on plateau", "float64", GATES["loss"], found, None)

    # What may differ by rounding

    def forward(self, precision: Precision) -> Rung:
        (batch,) = self.batches(1, precision)
        return self._rung("forward", precision, GATES["forward"], lambda side: {"logits": side.logits(batch)})

    def loss(self, precision: Precision) -> Rung:
        """Training mode; once more with logits so large that clipped probabilities would show.

        In float32 of each image, too: the mean of their errors may be small by luck, and so may that of the control.
        """
        (batch,) = self.batches(1, precision)
        sure = sure_logits(batch, self.classes)

        def losses(side: Side) -> Tensors:
            found = {"loss": side.loss(batch), "of sure logits": side.loss_of(sure, batch)}
            if self.data.augmentation.mixes:
                found["of mixed images"] = side.loss_of(sure, mixed_labels(batch, self.classes))
            return found | ({"of each image": side.losses(batch)} if precision == "float32" else {})

        return self._rung("loss", precision, GATES["loss"], losses)

    def steady_gradients(self) -> Report:
        """Whether there is a batch on which rounding flips no sign and no maximum, in float32."""
        small = self.small_batch
        name = f"flipped signs, {small.size} images"
        if small.own_flips:
            return Report(f"{name}: none is steady", "float32", small.flips, "", small.own_flips)
        return Rung(name, "float32", small.flips, "", control=0.0, limit=0.0)

    def gradients(self, precision: Precision) -> Report:
        batch = self.batch(precision)
        rung = self._rung("gradients", precision, GATES["gradients"], lambda side: side.gradients(batch), damped=True)
        return self._gated_if_steady(rung, precision)

    def dropout(self) -> Rung:
        """What each dropout layer makes of ones: the same masks, bit for bit, and the same factor for what is kept."""
        pair, (batch,) = self.pair("float64"), self.batches(1, "float64")
        return exact("dropout", distance(pair.torch.kept_units(batch), pair.keras.kept_units(batch)))

    def frozen(self, precision: Precision) -> Report:
        """Three steps with the first block frozen (in float32 one): it must stay as it is, statistics included."""
        pair = self.pair(precision)
        first = next(iter(pair.plan.blocks))
        pair.torch.freeze(first)
        pair.keras.freeze(first)
        small = self.search(pair.flips) if precision == "float32" else None
        batches = [self.candidate(small.size, small.number)] if small else self.batches(3, precision)

        def trained(side: Side) -> Tensors:
            before = {name: value for name, value in side.tensors().items() if name.startswith(f"{first}.")}
            for _ in side.steps(batches, OPTIMIZERS["sgd"][0], [2.0**-7] * len(batches)):
                pass
            after = side.tensors()
            moved = any(not np.array_equal(after[name], value) for name, value in before.items())
            return after | {"frozen tensors that moved": np.array(float("nan") if moved else 1.0)}

        name = f"frozen {first}, {len(batches)} step{'s' * (len(batches) > 1)}"
        rung = judged(name, precision, GATES["sgd"], pair, trained)
        return without_verdict(rung) if small and small.own_flips else rung

    def clipping(self, precision: Precision) -> Report:
        """One step with the gradients' common norm clipped to about a hundredth of itself."""
        optimizer, batch = OPTIMIZERS["sgd"][0], self.batch(precision)

        def moved(side: Side) -> Tensors:
            return without_idle_biases(movement(side, batch, optimizer, clip=2.0**-6), side.plan)

        rung = self._rung("global-norm clipping", precision, GATES["clipping"], moved)
        return self._gated_if_steady(rung, precision)

    def accumulation(self) -> Iterator[Rung]:
        """Where the experiment has it: three steps of several batches, the last one with too few, in float64."""
        accumulated = self.experiment.trainer.accumulate_grad_batches
        if accumulated == 1:
            return
        batches, optimizer = self.batches(2 * accumulated + 1, "float64"), OPTIMIZERS["sgd"][0]

        def trained(side: Side) -> Tensors:
            for _ in side.steps(batches, optimizer, [optimizer.learning_rate] * 3, accumulated=accumulated):
                pass
            return without_idle_biases(side.tensors(), side.plan)

        yield self._rung("gradient accumulation", "float64", GATES["sgd"], trained)

    def averaging(self) -> Iterator[Rung]:
        """Where the experiment has it: the moving average of the weights over five steps, in float64."""
        if self.spec.optimizer.ema is None:
            return
        batches, optimizer = self.batches(5, "float64"), replace(OPTIMIZERS["sgd"][0], ema=self.spec.optimizer.ema)

        def trained(side: Side) -> Tensors:
            for _ in side.steps(batches, optimizer, [optimizer.learning_rate] * len(batches)):
                pass
            return without_idle_biases(side.averages(), side.plan)

        yield self._rung("averaged weights", "float64", GATES["sgd"], trained)

    def steps(self, name: str, precision: Precision) -> Iterator[Report]:
        """One step and fifty: rungs in float64; in float32 rungs of one step, reports of fifty."""
        if precision == "float64":
            yield from self._trajectory(name, precision)
        else:
            yield from self.one_step(name)
            for rung in self._trajectory(name, precision):
                yield without_verdict(rung)

    def one_step(self, name: str) -> Iterator[Report]:
        """What one step moves, and the batch-norm statistics after it, in float32.

        At a rate of 1, so that the step is as large as what it is made of, and not lost in the weights' rounding. Adam
        divides each gradient by its own size: where that is almost nothing its rounding becomes a whole step, so only
        entries count whose gradient is at least a hundredth of the largest.
        """
        optimizer, _ = self.optimizers()[name]
        batch, pair = self.batch("float32"), self.pair("float32")
        gradients = pair.torch.twin().gradients(batch)
        scales = {name: float(np.abs(value).max()) for name, value in gradients.items()}
        scales |= damped_scales(gradients, pair.damped)
        counted = {name: np.abs(value) >= scales[name] / 100 for name, value in gradients.items()}

        def stepped(side: Side, optimizer: OptimizerSpec = optimizer) -> Tensors:
            step = movement(side, batch, optimizer)
            if optimizer.name != "sgd":
                step = {name: np.where(counted[name], value, 0) for name, value in step.items()}
            return step | statistics(side.tensors())

        # There is no .999 in float32. Keras takes what is nearest, torch does not, and 1 - .999 differs by 1.3e-5.
        betas = {name: float(np.float32(getattr(optimizer, name))) for name in ("beta1", "beta2")}
        twin = pair.torch.twin()
        sides = [stepped(pair.torch), stepped(pair.keras)]
        sides += controls(twin, lambda side: stepped(side, replace(optimizer, **betas)))
        for rung in step_rungs(f"{name}, 1 step", "float32", optimizer, sides, pair.damped):
            yield self._gated_if_steady(rung, "float32")

    def _trajectory(self, name: str, precision: Precision) -> list[Rung]:
        """Parameters and batch-norm statistics after one step (in float64) and after fifty."""
        optimizer, schedule = self.optimizers()[name]
        rates = ModelSpec(optimizer=optimizer, schedule=schedule).learning_rates(STEPS)
        batches = self.batches(STEPS, precision)
        pair = self.pair(precision)
        stops = {0: "1 step", STEPS - 1: f"{STEPS} steps"} if precision == "float64" else {STEPS - 1: f"{STEPS} steps"}

        def snapshots(side: Side) -> list[Tensors]:
            steps = enumerate(side.steps(batches, optimizer, rates))
            return [without_idle_biases(side.tensors(), side.plan) for step, _ in steps if step in stops]

        def rungs(sides: list[list[Tensors]]) -> list[Rung]:
            labels = [f"{name}, {label}" for label in stops.values()]
            stopped = zip(labels, zip(*sides, strict=True), strict=True)
            return [rung for label, then in stopped for rung in step_rungs(label, precision, optimizer, then)]

        twin = pair.torch.twin()
        sides = [snapshots(pair.torch), snapshots(pair.keras)]
        others = controls(twin, snapshots, OTHER_KERNELS[::-1])
        # Fifty steps are dear, and in float32 they are only reported.
        return with_controls(rungs, sides, others) if precision == "float64" else rungs([*sides, next(others)])

    def evaluation(self) -> Rung:
        """Loss and accuracy of the test images by either side's own loop, float64."""
        return verdict("evaluation", "float64", GATES["loss"], distance(*self.scores()), None)

    def scores(self) -> tuple[Tensors, Tensors]:
        """torch's and Keras's, of batches of which the last is a smaller one."""
        part = Split(self.dataset.test.images[:EVALUATED], self.dataset.test.labels[:EVALUATED])
        data = replace(self.data, eval_batch_size=EVALUATED // 3 - 1)
        pair = self.pair("float64")
        dataset = replace(self.dataset, val=part)
        return lightning_scores(pair, data, dataset), keras_scores(pair, data, dataset)

    def whole_run(self) -> Rung:
        """One epoch of 500 images by either command line, float64: the histories, and the test of 200 images.

        A control, too, where the gate does not do: fine-tuning amplifies rounding within an epoch.
        """
        some = replace(self.dataset, train=evenly(self.dataset.train, 500), test=evenly(self.dataset.test, EVALUATED))

        def rungs(sides: list[Tensors]) -> list[Rung]:
            return [compare("whole run, 1 epoch", "float64", GATES["adam"], sides)]

        with closing(whole_runs(replace(self.experiment, data=replace(self.data, batch_size=64)), some)) as runs:
            (rung,) = with_controls(rungs, [next(runs), next(runs)], runs)
        return rung

    def _rung(
        self, name: str, precision: Precision, gate: Gate, measure: Callable[[Side], Tensors], damped: bool = False
    ) -> Rung:
        return judged(name, precision, gate, self.pair(precision), measure, damped)

    def _gated_if_steady(self, rung: Rung, precision: Precision) -> Report:
        return without_verdict(rung) if precision == "float32" and self.small_batch.own_flips else rung


def sure_logits(batch: Batch, classes: int) -> np.ndarray:
    """(B, classes), all for one wrong class."""
    return 40 * np.eye(classes)[(batch.labels + 1) % classes].astype(batch.images.dtype)


def mixed_labels(batch: Batch, classes: int) -> Batch:
    """The same images with shares (B, classes): three quarters of their own label, a quarter of the image before."""
    one_hot = np.eye(classes, dtype=batch.images.dtype)[batch.labels]
    return replace(batch, labels=0.75 * one_hot + 0.25 * np.roll(one_hot, 1, axis=0))


def movement(side: Side, batch: Batch, optimizer: OptimizerSpec, clip: float | None = None) -> Tensors:
    """What one step at a learning rate of 1 adds to the parameters."""
    before = parameters(side.tensors())
    list(side.steps([batch], optimizer, [1.0], clip))
    return {name: value - before[name] for name, value in parameters(side.tensors()).items()}


def judged(
    name: str, precision: Precision, gate: Gate, pair: Pair, measure: Callable[[Side], Tensors], damped: bool = False
) -> Rung:
    """How far ``measure`` of the two sides lies apart; in float32 beside all controls."""
    twin = pair.torch.twin()  # measuring may train the side
    sides = [measure(pair.torch), measure(pair.keras)]
    scales = damped_scales(sides[0], pair.damped) if damped else None

    def rungs(sides: list[Tensors]) -> list[Rung]:
        return [compare(name, precision, gate, sides, scales)]

    others = controls(twin, measure)
    (rung,) = with_controls(rungs, sides, others) if precision == "float64" else rungs([*sides, *others])
    return rung


def with_controls(
    rungs: Callable[[list[Measured]], list[Rung]], sides: list[Measured], others: Iterator[Measured]
) -> list[Rung]:
    """Rungs of two sides in float64, where the gates tell enough unless the network amplifies every rounding: only then
    controls are measured, one after the other.
    """
    while failed(found := rungs(sides)) and (other := next(others, None)) is not None:
        sides = [*sides, other]
    return found


def controls(
    side: TorchSide, measure: Callable[[Side], Measured], others: Sequence[Kernels] = OTHER_KERNELS
) -> Iterator[Measured]:
    """What torch measures by other kernels, each when it is asked for."""
    for kernels in others:
        with kernels():
            found = measure(side.twin())
        yield found


def step_rungs(
    label: str, precision: Precision, optimizer: OptimizerSpec, sides: Sequence[Tensors], damped: Collection[str] = ()
) -> Iterator[Rung]:
    """Of parameters, and of batch-norm statistics if there are any.

    ``damped`` as in `damped_scales`, where steps are compared.
    """
    scales = damped_scales(parameters(sides[0]), damped) if damped else None
    gate = GATES["sgd" if optimizer.name == "sgd" else "adam"]
    yield compare(label, precision, gate, [parameters(side) for side in sides], scales)
    if statistics(sides[0]):
        parts = [statistics(side) for side in sides]
        yield compare(f"{label}, statistics", precision, GATES["batch norm statistics"], parts)


def failed(reports: Iterable[Report]) -> list[Rung]:
    return [report for report in reports if isinstance(report, Rung) and not report.passed]


def evenly(part: Split, count: int) -> Split:
    """So many images from all over a part, whatever its order."""
    rows = np.linspace(0, len(part.labels) - 1, min(count, len(part.labels))).astype(int)
    return Split(part.images[rows], part.labels[rows])


def shapes(tensors: Tensors) -> Tensors:
    return {name: np.array(tensor.shape) for name, tensor in tensors.items()}


def compare(
    name: str, precision: Precision, gate: Gate, sides: Sequence[Tensors], scales: dict[str, float] | None = None
) -> Rung:
    """A rung of what torch and Keras measure, and perhaps the controls."""
    reference, other, *others = sides
    control = max((distance(reference, each, scales).value for each in others), default=None)
    return verdict(name, precision, gate, distance(reference, other, scales), control)


def verdict(name: str, precision: Precision, gate: Gate, found: Distance, control: float | None) -> Rung:
    limit = gate.float64 if precision == "float64" else gate.float32
    if control is not None and np.isfinite(control):  # else a tensor is not a number in torch itself
        limit = max(limit, MARGIN * control)
    return Rung(name, precision, *found, control, limit)


def exact(name: str, found: Distance) -> Rung:
    return Rung(name, "exact", *found, control=None, limit=0.0)


def without_verdict(rung: Rung) -> Report:
    return Report(rung.name, rung.precision, rung.measured, rung.worst, rung.control)
