"""BackboneSpec -> the plan of a backbone: which layers of which network, which of them train when, and how fast.

A VGG is a network of this project like any other, some lines of recipes, so a backbone is always a plan's lower part.
Layers have Keras's names here, as in keras.applications.VGG16: block1_conv1, block1_conv2, block1_pool, ..., fc1, fc2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import or_all
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.network_plan import (
    CLASSIFIER,
    NetworkError,
    NetworkPlan,
    PlannedLayer,
    Shape,
    plan_network,
    require_whitening,
)
from lightning_vgg.experiment.recipe import AveragePool, Dense, GlobalAveragePool, MaxPool
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import BackboneSpec, ExperimentSpec, NetworkSpec


def _vgg(convolutions: list[int], word: str) -> NetworkSpec:
    """Five blocks with so many convolutions each, spelled ``word``, and the two fully connected layers."""
    blocks = [" - ".join([word] * count + ["maxpool"]) for count in convolutions]
    return NetworkSpec(conv_block=blocks, filters=[64, 128, 256, 512, 512], dense_block="dense", units=[4096, 4096])


_WITH_BATCH_NORM = "conv(linear) - batch norm(momentum 0.9, epsilon 0.00001) - relu"
"""As torchvision trained it."""
FAMILY = {
    "vgg16": _vgg([2, 2, 3, 3, 3], "conv"),
    "vgg19": _vgg([2, 2, 4, 4, 4], "conv"),
    "vgg16_bn": _vgg([2, 2, 3, 3, 3], _WITH_BATCH_NORM),
    "vgg19_bn": _vgg([2, 2, 4, 4, 4], _WITH_BATCH_NORM),
}
"""Configurations D and E of Simonyan & Zisserman (2014). Between the fully connected layers torchvision has dropout;
here, as in Keras, there is none.
"""

Kind = Literal["none", "named", "file", "run"]


@dataclass(frozen=True)
class Source:
    """The network that a backbone is cut from.

    Attributes:
        kind: where its weights are.
        network: its blocks; only the convolutional ones count.
        semantics: by which it was trained: batch norm's epsilon belongs to the weights.
    """

    kind: Kind
    network: NetworkSpec
    semantics: Semantics

    def describe(self) -> PlainDict:
        """Plain values for run.json; `recorded_source` reads them."""
        return {"network": asdict(self.network), "semantics": asdict(self.semantics)}


def recorded_source(description: PlainDict) -> Source:
    """The source that `Source.describe` has described in run.json; the weights are in the run's checkpoints."""
    return Source("none", NetworkSpec(**description["network"]), Semantics(**description["semantics"]))


@dataclass(frozen=True)
class BackbonePlan:
    """The layers of a backbone from the images up.

    Attributes:
        source: the plan of the whole network that it is cut from.
        application: the name in `FAMILY` of the network whose convolutions these are; None: of another one.
        semantics: those of the source.
        layers: under Keras's names.
        pooling: after the last layer.
        frozen: (epochs done, how many layers are frozen from then on), the first at 0 epochs.
        rate_factor, layer_decay: see BackboneSpec.
    """

    source: NetworkPlan
    application: str | None
    semantics: Semantics
    layers: tuple[PlannedLayer, ...]
    pooling: Literal["flatten", "average", "max"]
    frozen: tuple[tuple[int, int], ...]
    rate_factor: float
    layer_decay: float

    @property
    def image_size(self) -> int:
        return self.source.input_shape[0]

    @property
    def fully_connected(self) -> list[int]:
        """The widths of its fully connected layers."""
        return [layer.width for layer in self.layers if isinstance(layer.layer, Dense)]

    @property
    def flattened(self) -> dict[str, Shape]:
        """The layers whose input is flattened pixels, and the (H, W, C) of these."""
        return {
            layer.name: before.output_shape
            for before, layer in pairwise(self.layers)
            if isinstance(layer.layer, Dense) and len(before.output_shape) == 3
        }

    @property
    def output_shape(self) -> Shape:
        """Channels last, after the pooling."""
        shape = self.layers[-1].output_shape
        return shape if self.pooling == "flatten" and len(shape) == 3 else (1, 1, shape[-1])

    def features_shape(self, layers: int) -> Shape:
        """Of what the lowest ``layers`` make of an image, channels last; pooled where these are all layers."""
        return self.output_shape if layers == len(self.layers) else self.layers[layers - 1].output_shape

    def frozen_layers(self, epoch: int) -> int:
        """How many layers do not train in an epoch (0, 1, ...)."""
        return [count for start, count in self.frozen if start <= epoch][-1]

    @property
    def always_frozen(self) -> int:
        """How many layers never train."""
        return self.frozen[-1][1]

    def first_trained(self, layer: int) -> int | None:
        """The epoch (0, 1, ...) in which a layer begins to train; None: never."""
        return next((start for start, count in self.frozen if count <= layer), None)

    def trained_groups(self) -> dict[tuple[int, float], list[int]]:
        """(first epoch, rate as a share of the head's) -> the layers that train so; those that never do are left out.

        They are the same in every epoch, so a resumed run finds the optimizer's state in its place.
        """
        groups: dict[tuple[int, float], list[int]] = {}
        for number in range(len(self.layers)):
            start = self.first_trained(number)
            if start is not None:
                groups.setdefault((start, self.learning_rate_factor(number)), []).append(number)
        return groups

    def stages(self, epochs: int) -> list[tuple[int, int, int]]:
        """(first epoch, epoch after the last, how many layers are frozen) of a training, in order."""
        ends = [*(start for start, _ in self.frozen[1:]), epochs]
        return [
            (start, min(end, epochs), layers)
            for (start, layers), end in zip(self.frozen, ends, strict=True)
            if start < epochs
        ]

    def learning_rate_factor(self, layer: int) -> float:
        """Of a layer's learning rate, as a share of the head's."""
        depth = _block_number(self.layers[-1].name) - _block_number(self.layers[layer].name)
        return self.rate_factor * self.layer_decay**depth


def plan_backbone(spec: BackboneSpec, source: Source, image_size: int) -> BackbonePlan:
    """Plan the backbone for images that are stored with ``image_size`` pixels a side.

    Raises:
        ExperimentError: a layer's name is unknown, an image too small, or the schedule of unfreezing freezes.
    """
    network = source.network
    if network not in FAMILY.values():  # what lies above the convolutions of a run belongs to its task
        network = replace(network, dense_block="dense", units=[])
    if spec.image_size is not None and spec.image_size < 1:
        raise ExperimentError(f"model.backbone.image_size must be at least 1, not {spec.image_size}")
    if spec.rate_factor <= 0 or spec.layer_decay <= 0:
        raise ExperimentError("model.backbone.rate_factor and model.backbone.layer_decay must be above 0")
    # Shapes without images first, so that a small image is the fault of the layers that are used alone.
    names = [name for name, _ in named_layers(plan_network(network, 1024, num_classes=1))]
    count = 1 + _index(spec.layer, names, "layer")
    used = _up_to(network, names[count - 1])
    try:
        plan = plan_network(used, spec.image_size or image_size, num_classes=1)
    except NetworkError as error:
        raise ExperimentError(
            f"model.backbone: {error}; that is, a larger model.backbone.image_size or a lower model.backbone.layer"
        ) from None
    layers = tuple(replace(layer, name=name) for name, layer in named_layers(plan))[:count]
    if isinstance(layers[-1].layer, Dense) and source.kind in ("named", "file") and plan.input_shape[0] != 224:
        raise ExperimentError(
            f"model.backbone.layer: {spec.layer} was trained on images of 224 pixels, not {plan.input_shape[0]}: set "
            "model.backbone.image_size to 224"
        )
    return BackbonePlan(
        source=plan,
        application=_application(source.network),
        semantics=source.semantics,
        layers=layers,
        pooling=spec.pooling,
        frozen=_freezing(spec, names[:count]),
        rate_factor=spec.rate_factor,
        layer_decay=spec.layer_decay,
    )


def plan_model(experiment: ExperimentSpec, num_classes: int, backbone: BackbonePlan | None = None) -> NetworkPlan:
    """The plan of an experiment's network, which stands on the backbone's output where there is one.

    Raises:
        ExperimentError: it cannot be built.
    """
    spec = experiment.model
    if backbone is None:
        plan = plan_network(spec.network, experiment.image_size, num_classes, experiment.data.channels)
        if spec.tricks.whitening:
            require_whitening(plan)
        return plan
    if experiment.data.grayscale:
        raise ExperimentError("model.backbone reads red, green and blue: leave out data.grayscale")
    if spec.tricks.whitening:
        raise ExperimentError("model.tricks.whitening is of a network that sees pixels: leave out model.backbone")
    shape = backbone.output_shape
    return plan_network(spec.network, shape[0], num_classes, shape[-1])


def freezing_line(
    epoch: int, epochs: int | None, trainable: int, frozen: int, plan: BackbonePlan, frozen_layers: int
) -> str:
    """``epoch   3/10  trainable parameters 6,154  frozen 14,714,688 (up to block5_pool)``, after 2 epochs."""
    upto = f"up to {plan.layers[frozen_layers - 1].name}" if frozen_layers else "none"
    return f"epoch {epoch + 1:3d}/{epochs}  trainable parameters {trainable:,}  frozen {frozen:,} ({upto})"


def named_layers(plan: NetworkPlan) -> list[tuple[str, PlannedLayer]]:
    """The layers below the classifier with Keras's names: a block's only pooling is blockN_pool, heads are fcN."""
    named = []
    for block, layers in plan.blocks.items():
        if block == CLASSIFIER:
            continue
        if block.startswith("head"):
            named.append((block.replace("head", "fc"), layers[0]))
            continue
        pools = [layer for layer in layers if isinstance(layer.layer, MaxPool | AveragePool | GlobalAveragePool)]
        for layer in layers:
            name = f"{block}_pool" if pools == [layer] else layer.name.replace(".", "_").replace(" ", "_")
            named.append((name, layer))
    return named


def _up_to(network: NetworkSpec, layer: str) -> NetworkSpec:
    """Without the blocks above the layer's."""
    blocks = _block_number(layer)
    if layer.startswith("fc"):
        return replace(network, units=network.units[: blocks - len(network.filters)])
    network = replace(network, units=[])
    recipes = network.conv_block if isinstance(network.conv_block, str) else network.conv_block[:blocks]
    return replace(network, conv_block=recipes, filters=network.filters[:blocks])


def _application(network: NetworkSpec) -> str | None:
    """By its convolutions, which is all that older runs have recorded."""
    convolutions = {name: (spec.conv_block, spec.filters) for name, spec in FAMILY.items()}
    return next((name for name, own in convolutions.items() if own == (network.conv_block, network.filters)), None)


def _block_number(layer: str) -> int:
    if layer.startswith("fc"):
        return 5 + int(layer.removeprefix("fc"))
    return int(layer.partition("_")[0].removeprefix("block"))


def _index(name: str, names: list[str], key: str) -> int:
    if name not in names:
        raise ExperimentError(f"model.backbone.{key}: there is no layer {name}{or_all(name, names)}")
    return names.index(name)


def _freezing(spec: BackboneSpec, names: list[str]) -> tuple[tuple[int, int], ...]:
    """The steps of `BackbonePlan.frozen`."""

    def count(until: str | None, key: str) -> int:
        if until in (None, "none"):
            return 0
        return len(names) if until == "all" else 1 + _index(until, names, key)

    steps = [(0, count(spec.freeze_until, "freeze_until"))]
    for epoch, until in sorted(spec.unfreeze.items()):
        if epoch < 1:
            raise ExperimentError(
                f"model.backbone.unfreeze counts epochs that are done, from 1: not {epoch}; what is frozen from the "
                "start stands in model.backbone.freeze_until"
            )
        layers = count(until, "unfreeze")
        if layers >= steps[-1][1]:
            raise ExperimentError(
                f"model.backbone.unfreeze: {epoch}: {until} unfreezes nothing: {steps[-1][1]} of {len(names)} layers "
                f"are frozen before it, {layers} after it"
            )
        steps.append((epoch, layers))
    return tuple(steps)
