"""Where do they part? Each layer alone, on the input and the output gradient of torch's network, in both frameworks.

So errors do not add up on their way through the network, and the first layer or stage above its limit is the culprit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import nn

from keras_reference.blocks import layer_name
from keras_reference.dropout import drop_by
from keras_reference.splitmix64 import as_words
from keras_reference.weights import NeutralTensor, model_tensors
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.network_plan import PlannedLayer, Shape
from lightning_vgg.experiment.recipe import BatchNorm, Dense, Dropout, SpatialDropout
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.training import penalty
from lightning_vgg.training.dropout import set_mask_keys
from lightning_vgg.training.kernels import OTHER_KERNELS
from parity_tests.collected_batches import evaluation_batches, training_batches
from parity_tests.distance import distance
from parity_tests.frameworks import keras
from parity_tests.ladder import BATCH, GATES, MARGIN, OPTIMIZERS, Ladder, Rung, sure_logits
from parity_tests.pair import Batch, Pair, Tensors, flatten_as_keras, keras_precision, parameters
from parity_tests.relation import of_statistics, relation
from parity_tests.transfer_ladder import TransferLadder, TransferPair

FLOOR = 256 * float(np.finfo(np.float64).eps)
"""The least limit of what is rounded: sums of thousands of terms that do not cancel stay below it. Where terms cancel
the limit is higher: a multiple of what torch differs from itself by other kernels, which cancel as much.
"""
UPDATES = 4
"""Steps of the optimizer; the second one shows momentum and schedule, the later ones how Adam's correction fades."""

FORWARD = ("mask", "penalty", "output before the activation", "output in evaluation", "output")
BACKWARD = ("input gradient", "weight gradient", "bias gradient", "penalty gradient")
STATISTICS = {"running_mean": "running mean", "running_var": "running variance"}


@dataclass(frozen=True)
class Finding:
    """One quantity of one layer or stage.

    Attributes:
        where: the layer's name, or the stage.
        kind: the layer's word, such as conv, or the stage again.
        quantity: what was compared.
        measured: largest difference as a share of the largest value.
        limit: what rounding explains.
        relation: how the two are related, in words, where they differ by more.
    """

    where: str
    kind: str
    quantity: str
    measured: float
    limit: float
    relation: str = ""

    @property
    def is_culprit(self) -> bool:
        return self.measured > self.limit

    def __str__(self) -> str:
        return f"{self.where}: {self.quantity}; {self.relation}"

    def as_dict(self) -> PlainDict:
        return {**asdict(self), "culprit": self.is_culprit}


@dataclass(frozen=True)
class Layer:
    """One layer in both frameworks.

    Attributes:
        name: the path of torch's module.
        planned: what it does.
        ours, theirs: the layer in torch and in Keras.
        tensors: Keras's variables, by the end of their neutral name.
        pixels: where its input is flattened pixels, their (H, W, C).
        bgr: whether Keras's reads blue, green, red.
        keys: of the masks (B,).
    """

    name: str
    planned: PlannedLayer
    ours: nn.Module
    theirs: keras.layers.Layer
    tensors: Mapping[str, NeutralTensor]
    pixels: Shape | None
    bgr: bool
    keys: np.ndarray

    @property
    def kind(self) -> str:
        return self.planned.layer.word.replace(" ", "_")

    def measure(self, inputs: torch.Tensor, gradient: torch.Tensor) -> list[Finding]:
        """Every quantity of the layer, for what goes into it in torch and the gradient of what comes out of it."""
        before = {name: self.tensors[end].read() for end, name in STATISTICS.items() if end in self.tensors}
        ours, theirs, others = self._torch(inputs, gradient), self._keras(inputs, gradient), []
        for kernels in OTHER_KERNELS:
            with kernels():
                others.append(self._torch(inputs, gradient))
        # The terms of a bias's gradient may cancel, so it is measured by what they are.
        terms = float(gradient.abs().movedim(1, 0).flatten(1).sum(1).max())
        findings = []
        for quantity, value in ours.items():
            finding = compared(
                self.name,
                self.kind,
                quantity,
                value,
                theirs[quantity],
                others=[other[quantity] for other in others],
                known=self._known_factors(inputs),
                largest=terms if quantity == "bias gradient" else None,
            )
            if quantity in before and finding.is_culprit:
                assert isinstance(self.planned.layer, BatchNorm)
                kept = self.planned.layer.momentum
                kept = KERAS.batch_norm_momentum if kept is None else kept
                known = self._known_factors(inputs)
                words = of_statistics(before[quantity], value, theirs[quantity], kept, known)
                finding = replace(finding, relation=words)
            findings.append(finding)
        return findings

    def _known_factors(self, inputs: torch.Tensor) -> dict[str, float]:
        match self.planned.layer:
            case BatchNorm():
                count = inputs.numel() // inputs.shape[1]
                return {"n/(n-1)": count / max(count - 1, 1)}
            case Dropout(rate=rate) | SpatialDropout(rate=rate) if rate:
                return {"1 - rate": 1 - rate, "1/(1 - rate)": 1 / (1 - rate)}
        return {}

    def _torch(self, inputs: torch.Tensor, gradient: torch.Tensor) -> Tensors:
        module = deepcopy(self.ours).requires_grad_()
        set_mask_keys(module, torch.from_numpy(self.keys))
        found = {"output in evaluation": self._turned(module.eval()(inputs.clone()))}
        module.train()
        if isinstance(self.planned.layer, Dropout | SpatialDropout):
            found["mask"] = self._turned(module(torch.ones_like(inputs)))
        if penalized := penalty.penalized_layers(module):
            value = penalty.l2_penalty(penalized)
            assert isinstance(value, torch.Tensor)
            found["penalty"] = value.detach().numpy()
            found["penalty gradient"] = torch.autograd.grad(value, penalized[0].weight)[0].numpy()
        if getattr(self.planned.layer, "activation", "linear") != "linear":
            linear = deepcopy(module)
            linear.activation = nn.Identity()
            found["output before the activation"] = self._turned(linear(inputs.clone()))
        inputs = inputs.clone().requires_grad_()
        outputs = module(inputs)
        found["output"] = self._turned(outputs)
        parameters = dict(module.named_parameters())
        gradients = torch.autograd.grad(outputs, [inputs, *parameters.values()], gradient)
        found["input gradient"] = self._turned(gradients[0], of_inputs=True)
        found |= {f"{name} gradient": value.numpy() for name, value in zip(parameters, gradients[1:], strict=True)}
        found |= {name: module.get_buffer(end).numpy() for end, name in STATISTICS.items() if end in self.tensors}
        return found

    def _keras(self, inputs: torch.Tensor, gradient: torch.Tensor) -> Tensors:
        import tensorflow as tf

        layer, before = self.theirs, {end: tensor.read() for end, tensor in self.tensors.items()}
        values = tf.constant(self._turned(inputs, of_inputs=True))
        words = keras.ops.convert_to_tensor(as_words(self.keys))
        found = {"output in evaluation": np.asarray(layer(values, training=False))}
        with drop_by(words):
            if isinstance(self.planned.layer, Dropout | SpatialDropout):
                found["mask"] = np.asarray(layer(tf.ones_like(values), training=True))
            if layer.losses:
                kernel = self.tensors["weight"]
                with tf.GradientTape() as tape:
                    value = sum(layer.losses)
                found["penalty"] = np.asarray(value)
                of_kernel = tape.gradient(value, kernel.variable.value)
                found["penalty gradient"] = replace(kernel, variable=of_kernel).read()
            if getattr(self.planned.layer, "activation", "linear") != "linear":
                activation, layer.activation = layer.activation, keras.activations.linear
                found["output before the activation"] = np.asarray(layer(values, training=True))
                layer.activation = activation
            trained = {end: tensor for end, tensor in self.tensors.items() if not end.startswith("running")}
            with tf.GradientTape() as tape:
                tape.watch(values)
                outputs = layer(values, training=True)
        found["output"] = np.asarray(outputs)
        sources = [values, *(tensor.variable.value for tensor in trained.values())]
        gradients = tape.gradient(outputs, sources, tf.constant(self._turned(gradient)))
        found["input gradient"] = np.asarray(gradients[0])
        for (end, tensor), value in zip(trained.items(), gradients[1:], strict=True):
            found[f"{end} gradient"] = replace(tensor, variable=value).read()
        found |= {name: self.tensors[end].read() for end, name in STATISTICS.items() if end in self.tensors}
        for end, tensor in self.tensors.items():
            tensor.assign(before[end])
        return found

    def _turned(self, values: torch.Tensor, of_inputs: bool = False) -> np.ndarray:
        """As Keras has it: channels last, flattened pixels in that order, too, and blue first where it reads that."""
        turned = np.moveaxis(values.detach().numpy(), 1, -1)
        if self.pixels is not None and (of_inputs or not isinstance(self.planned.layer, Dense)):
            turned = flatten_as_keras(turned, self.pixels)
        return turned[..., ::-1].copy() if of_inputs and self.bgr else turned.copy()


def compared(
    where: str,
    kind: str,
    quantity: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    others: Sequence[np.ndarray] = (),
    known: dict[str, float] | None = None,
    largest: float | None = None,
    limit: float = FLOOR,
) -> Finding:
    """A finding beside ten times what torch differs from itself; ``largest`` is what a difference is measured by."""
    scales = None if largest is None else {quantity: largest}
    apart = [distance({quantity: theirs}, {quantity: value}, scales).value for value in (ours, theirs)]
    measured = apart[0]
    control = max((distance({quantity: ours}, {quantity: other}, scales).value for other in others), default=0.0)
    limit = max(limit, MARGIN * control)
    words = relation(ours, theirs, known or {}) if measured > limit else ""
    return Finding(where, kind, quantity, measured, limit, words)


def locate(ladder: Ladder) -> Iterator[Finding]:
    """Everything that is compared, in the order in which a training comes to it; float64."""
    yield from (_of_rung("image files", rung) for rung in ladder.squares())
    yield from _batches(ladder)
    yield from (_of_rung(rung.name, rung) for rung in ladder.patience())
    if isinstance(ladder, TransferLadder):
        yield from _locate_on_backbone(ladder)
        return
    yield _of_rung("initialization", ladder.initialization())
    pair, (batch, *batches) = ladder.pair("float64"), ladder.batches(UPDATES, "float64")
    layers = _layers(pair, batch)
    recorded, logits = record(pair.torch.twin().network, layers, batch, pair.torch.loss_function)
    found = [finding for layer in layers for finding in layer.measure(*recorded[layer.name])]
    yield from _of(FORWARD, found)
    yield from _loss(pair, batch, logits)
    yield from _of(BACKWARD, found[::-1])
    yield from _of(tuple(STATISTICS.values()), found)
    yield from _frozen(ladder, batch)
    yield from _steps(ladder, [batch, *batches])
    yield from (_of_rung(rung.name, rung) for rung in (*ladder.accumulation(), *ladder.averaging()))
    ours, theirs = ladder.scores()
    for name, score in ours.items():
        yield compared("evaluation", "evaluation", name, score, theirs[name], limit=GATES["loss"].float64)


def _of(quantities: tuple[str, ...], found: list[Finding]) -> Iterator[Finding]:
    """Layer by layer, each layer's quantities in this order."""
    for _, of_layer in groupby(found, lambda finding: finding.where):
        by_quantity = {finding.quantity: finding for finding in of_layer}
        yield from (by_quantity[quantity] for quantity in quantities if quantity in by_quantity)


def _batches(ladder: Ladder) -> Iterator[Finding]:
    """Equal bit for bit: what is evaluated on, and two epochs of what is trained on."""
    preprocess = ladder.keras_preprocess()
    evaluated = evaluation_batches(ladder.data, ladder.dataset, preprocess)
    trained = training_batches(ladder.lively, ladder.dataset, preprocess)
    count = len(trained[0]) // 4  # images and labels of two epochs
    for stage, (ours, theirs), numbers in (
        ("preprocessing", evaluated, range(len(evaluated[0]) // 2)),
        ("batches of epoch 1", trained, range(count)),
        ("batches of epoch 2", trained, range(count, 2 * count)),
    ):
        for part in ("images", "labels"):
            names = [f"batch {number} {part}" for number in numbers]
            worst = distance({name: theirs[name] for name in names}, {name: ours[name] for name in names})
            tensors = ours[worst.tensor], theirs[worst.tensor]
            yield compared(stage, stage, part, *tensors, limit=0.0)


def _of_rung(stage: str, rung: Rung) -> Finding:
    return Finding(stage, stage, rung.worst, rung.measured, rung.limit, f"{rung.measured:.2g} in {rung.name}")


def _layers(pair: Pair, batch: Batch) -> list[Layer]:
    return [
        _layer(
            planned.name,
            planned,
            pair.torch.network,
            pair.keras.model.get_layer(layer_name(planned)),
            [*model_tensors(pair.keras.model, pair.plan)],
            pair.plan.flattened_layers().get(planned.name),
            batch,
        )
        for planned in pair.plan.layers
    ]


def _layer(
    name: str,
    planned: PlannedLayer,
    network: nn.Module,
    theirs: keras.layers.Layer,
    tensors: list[NeutralTensor],
    pixels: Shape | None,
    batch: Batch,
    bgr: bool = False,
) -> Layer:
    own = {tensor.name.rpartition(".")[2]: tensor for tensor in tensors if tensor.name.rpartition(".")[0] == name}
    return Layer(name, planned, network.get_submodule(name), theirs, own, pixels, bgr, batch.mask_keys)


def record(
    network: nn.Module, layers: list[Layer], batch: Batch, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Each layer's input and the gradient of its output, in training mode; and the logits, with their gradient."""
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def note(name: str, taken: torch.Tensor, output: torch.Tensor) -> None:
        inputs[name], outputs[name] = taken.detach().clone(), output
        output.retain_grad()

    for layer in layers:
        network.get_submodule(layer.name).register_forward_hook(
            lambda module, taken, output, name=layer.name: note(name, taken[0], output)
        )
    set_mask_keys(network, torch.from_numpy(batch.mask_keys))
    # Requires a gradient, so that what has no parameters below it has one, too.
    logits = network.train()(torch.from_numpy(batch.images).permute(0, 3, 1, 2).requires_grad_())
    loss(logits, torch.from_numpy(batch.labels)).backward()
    gradients = {name: output.grad for name, output in outputs.items()}
    return {name: (inputs[name], gradient) for name, gradient in gradients.items() if gradient is not None}, logits


def _loss(pair: Pair, batch: Batch, logits: torch.Tensor) -> Iterator[Finding]:
    import tensorflow as tf

    sure = sure_logits(batch, pair.plan.num_classes)
    for quantity, given in (("value", logits.detach().numpy()), ("value of sure logits", sure)):
        yield compared("loss", "loss", quantity, pair.torch.loss_of(given, batch), pair.keras.loss_of(given, batch))
    given = tf.constant(logits.detach().numpy())
    with tf.GradientTape() as tape, keras_precision("float64"):
        tape.watch(given)
        value = pair.keras.weighted_loss(batch.labels, given)
    assert logits.grad is not None
    yield compared("loss", "loss", "gradient", logits.grad.numpy(), np.asarray(tape.gradient(value, given)))


def _frozen(ladder: Ladder, batch: Batch) -> Iterator[Finding]:
    """The first block, after one step."""
    pair = ladder.pair("float64")
    first, optimizer = next(iter(pair.plan.blocks)), OPTIMIZERS["sgd"][0]
    before = pair.torch.tensors()
    for side in (pair.torch, pair.keras):
        side.freeze(first)
        list(side.steps([batch], optimizer, [optimizer.learning_rate]))
    names = [name for name in before if name.startswith(f"{first}.")]
    yield from _unmoved(names, before, pair.torch.tensors(), pair.keras.tensors())


def _unmoved(names: list[str], before: Tensors, ours: Tensors, theirs: Tensors) -> Iterator[Finding]:
    for name in names:
        moved = [
            framework
            for framework, after in (("torch", ours), ("Keras", theirs))
            if not np.array_equal(after[name], before[name])
        ]
        words = f"moves in {' and '.join(moved)}" if moved else ""
        yield Finding("frozen layers", "frozen layers", name, float(len(moved)), 0.0, words)


def _steps(ladder: Ladder, batches: list[Batch]) -> Iterator[Finding]:
    pair = ladder.pair("float64")
    gradients = [pair.torch.twin().gradients(batch) for batch in batches]
    yield from _clipping(ladder, gradients[0])
    yield from _optimizer(ladder, gradients)


def _clipping(ladder: Ladder, gradients: Tensors) -> Iterator[Finding]:
    """A step by gradients that are clipped to about a hundredth of themselves."""
    pair = ladder.pair("float64")
    before = pair.torch.tensors()
    for side in (pair.torch, pair.keras):
        list(side.steps_by([gradients], OPTIMIZERS["sgd"][0], [1.0], clip=2.0**-6))
    yield from _movements("clipping", "", before, pair.torch.tensors(), pair.keras.tensors())


def _optimizer(ladder: Ladder, gradients: list[Tensors]) -> Iterator[Finding]:
    """Steps of the experiment's own optimizer at the rates of its schedule."""
    pair, spec = ladder.pair("float64"), ladder.spec
    rates = spec.learning_rates(len(gradients))
    steps = [side.steps_by(gradients, spec.optimizer, rates) for side in (pair.torch, pair.keras)]
    before = pair.torch.tensors()
    for step, _ in enumerate(zip(*steps, strict=True), start=1):
        ours, theirs = pair.torch.tensors(), pair.keras.tensors()
        later = {"the rate of the next step": rates[step] / rates[step - 1]} if step < len(rates) else {}
        yield from _movements("optimizer", f", step {step}", before, ours, theirs, later)
        before = theirs
        for name, parameter in pair.torch.network.named_parameters():
            parameter.data.copy_(torch.from_numpy(theirs[name]))  # so that errors do not add up


def _movements(
    stage: str, suffix: str, before: Tensors, ours: Tensors, theirs: Tensors, known: dict[str, float] | None = None
) -> Iterator[Finding]:
    """What a step has added to each parameter. The parameter's own rounding is a larger share of a smaller step."""
    for name, value in parameters(theirs).items():
        moved = value - before[name]
        lost = float(np.finfo(np.float64).eps) * np.abs(value).max() / (np.abs(moved).max() or 1.0)
        limit = FLOOR + 8 * float(lost)
        yield compared(stage, stage, name + suffix, ours[name] - before[name], moved, known=known, limit=limit)


def _locate_on_backbone(ladder: TransferLadder) -> Iterator[Finding]:
    yield _of_rung("resize", ladder.resize("float64"))
    pair = ladder.transfer_pair("float64")
    (batch, *_), (their_batch, *_) = ladder.images(BATCH, "float64"), ladder.keras_images(pair, BATCH)
    layers = _layers_on_backbone(pair, batch)
    network = pair.frozen_copy(0, batch)
    recorded, logits = record(network, layers, batch, pair.loss)
    head = ladder.head_ladder(UPDATES)
    found = [finding for layer in layers for finding in layer.measure(*recorded[layer.name])]
    of_backbone = [finding for finding in found if finding.where.startswith("backbone.")]
    yield from _of(FORWARD, of_backbone)
    yield _pooling(pair, recorded[layers[len(pair.plan.layers) - 1].name][1].shape)
    yield from _of(FORWARD, found[len(of_backbone) :])
    yield from _loss(head.pair("float64"), batch, logits)
    yield from _of(BACKWARD, found[::-1])
    yield from _of(tuple(STATISTICS.values()), found)
    half = len(pair.plan.layers) // 2
    plan = replace(pair.plan, frozen=((0, half),), rate_factor=0.5, layer_decay=0.5)
    optimizer = OPTIMIZERS["sgd"][0]
    before = pair.torch_tensors()
    ours, theirs = pair.torch_step(batch, optimizer, plan), pair.keras_step(their_batch, optimizer, plan)
    lower = tuple(f"backbone.{layer.name}." for layer in plan.layers[:half])
    yield from _unmoved([name for name in before if name.startswith(lower)], before, ours, theirs)
    upper = [name for name in parameters(before) if not name.startswith(lower)]
    others = []
    for kernels in OTHER_KERNELS:
        with kernels():
            others.append(pair.torch_step(batch, optimizer, plan))
    for name in upper:
        sides = [side[name] - before[name] for side in (ours, theirs, *others)]
        stage = "learning-rate groups"
        yield compared(stage, stage, name, sides[0], sides[1], others=sides[2:], limit=GATES["sgd"].float64)
    yield from _steps(head, head.batches(UPDATES, "float64"))


def _layers_on_backbone(pair: TransferPair, batch: Batch) -> list[Layer]:
    backbone, head = pair.keras.backbone, pair.keras.head
    assert backbone is not None
    tensors = [*pair.keras.tensors()]
    flattened = pair.keras.plan.flattened_layers()
    lower = [
        _layer(
            f"backbone.{each.name}",
            each,
            pair.torch_network,
            layer,
            tensors,
            pair.plan.flattened.get(each.name),
            batch,
            backbone.bgr and not number,
        )
        for number, (each, layer) in enumerate(zip(pair.plan.layers, backbone.layers, strict=True))
    ]
    return lower + [
        _layer(
            each.name,
            each,
            pair.torch_network,
            head.get_layer(layer_name(each)),
            tensors,
            flattened.get(each.name),
            batch,
        )
        for each in pair.keras.plan.layers
    ]


def _pooling(pair: TransferPair, shape: torch.Size) -> Finding:
    """Of random features in the shape of the last layer's output."""
    assert pair.keras.backbone is not None
    features = torch.from_numpy(np.random.default_rng(0).random(shape))
    ours = np.moveaxis(pair.backbone.pool(features).numpy(), 1, -1)
    with keras_precision("float64"):
        theirs = np.asarray(pair.keras.backbone.pool(keras.ops.convert_to_tensor(np.moveaxis(features.numpy(), 1, -1))))
    return compared("pooling", "pooling", "output", ours.reshape(theirs.shape), theirs)
