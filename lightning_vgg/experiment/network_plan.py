"""NetworkSpec -> the plan of a network: every layer with its name, width and shapes, before anything is built.

Both frameworks build from this plan, so they cannot disagree about what the recipe means.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.recipe import (
    Activation,
    AveragePool,
    BatchNorm,
    BlockKind,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    GlobalMaxPool,
    Layer,
    MaxPool,
    Recipe,
    SpatialDropout,
    ZeroPadding,
    parse_recipe,
    spell,
)
from lightning_vgg.experiment.specs import NetworkSpec

Shape = tuple[int, ...]
"""(height, width, channels), or (features,) once the pixels are gone."""

CLASSIFIER = "classifier"

MAX_LAYERS = 1000
"""Of a block: far beyond what can be trained."""


class NetworkError(ExperimentError):
    """A network that cannot be built; the message names the block and the layer."""


@dataclass(frozen=True)
class PlannedLayer:
    """One layer of a network.

    Attributes:
        name: ``block1.conv2``, ``head1.dense1``, ``classifier``: the prefix of its tensors' names.
        layer: what it does, from the recipe; dropout rates are filled in.
        width: filters of a convolution, units of a dense layer, else the channels that pass through.
        input_shape, output_shape: without the batch axis, channels last.
    """

    name: str
    layer: Layer
    width: int
    input_shape: Shape
    output_shape: Shape

    @property
    def trainable_parameters(self) -> int:
        channels = self.input_shape[-1]
        match self.layer:
            case Conv(kernel=kernel, bias=bias):
                return kernel * kernel * channels * self.width + bias * self.width
            case Dense(bias=bias):
                return channels * self.width + bias * self.width
            case BatchNorm(scale=scale, bias=bias):
                return (scale + bias) * channels
            case _:
                return 0


@dataclass(frozen=True)
class NetworkPlan:
    """The layers of a network in order, grouped by block; the last group is the classifier."""

    input_shape: Shape
    blocks: dict[str, tuple[PlannedLayer, ...]]

    @property
    def num_classes(self) -> int:
        return self.layers[-1].width

    @property
    def layers(self) -> tuple[PlannedLayer, ...]:
        return tuple(layer for block in self.blocks.values() for layer in block)

    @property
    def trainable_parameters(self) -> int:
        return sum(layer.trainable_parameters for layer in self.layers)

    def idle_biases(self) -> set[str]:
        """The biases that a batch norm cancels entirely."""
        return idle_biases(self.layers)

    def flattened_layers(self) -> dict[str, Shape]:
        """The layers that see flattened pixels, up to the first dense one, and the (H, W, C) that were flattened."""
        shape = self.input_shape
        layers: dict[str, Shape] = {}
        for planned in self.layers:
            if len(planned.input_shape) == 1 and len(shape) == 3:
                layers[planned.name] = shape
                if isinstance(planned.layer, Dense):
                    break
            else:
                shape = planned.output_shape
        return layers


def plan_network(spec: NetworkSpec, image_size: int, num_classes: int, channels: int = 3) -> NetworkPlan:
    """Compute every layer's shapes for square images of ``image_size`` pixels.

    Raises:
        RecipeError: a recipe cannot be read.
        NetworkError: widths and recipes do not match, or a block pools away the last pixel.
    """
    shape: Shape = (image_size, image_size, channels)
    blocks: dict[str, tuple[PlannedLayer, ...]] = {}
    for prefix, recipes, widths in (
        ("block", _recipes(spec.conv_block, spec.filters, "conv"), spec.filters),
        ("head", _recipes(spec.dense_block, spec.units, "dense"), spec.units),
    ):
        if prefix == "head":
            shape = (math.prod(shape),)
        for number, (recipe, width) in enumerate(zip(recipes, widths, strict=True), start=1):
            name = f"{prefix}{number}"
            blocks[name] = _plan_block(name, recipe, width, shape, spec.dropout)
            shape = blocks[name][-1].output_shape
    classifier = _classifier(spec.classifier)
    blocks[CLASSIFIER] = (PlannedLayer(CLASSIFIER, classifier, num_classes, shape, (num_classes,)),)
    return NetworkPlan((image_size, image_size, channels), blocks)


def same_padding(pixels: int, window: int, stride: int) -> tuple[int, int]:
    """Pixels before and after, as in Keras: as many as make ⌈pixels/stride⌉ windows, the odd one after."""
    needed = max((math.ceil(pixels / stride) - 1) * stride + window - pixels, 0)
    return needed // 2, needed - needed // 2


def require_whitening(plan: NetworkPlan) -> None:
    """Raise NetworkError unless the first layer is a convolution with two kernels for each number of a patch."""
    first = plan.layers[0]
    if not isinstance(first.layer, Conv):
        raise NetworkError(f"model.tricks.whitening needs a convolution as the first layer; {first.name} is none")
    width = 2 * first.layer.kernel**2 * first.input_shape[-1]
    if first.width != width:
        raise NetworkError(
            f"model.tricks.whitening: {first.name} needs {width} filters, two for each of the numbers of a patch, "
            f"not {first.width}"
        )


def _recipes(block: str | list[str], widths: list[int], kind: BlockKind) -> list[Recipe]:
    of = {"conv": ("conv_block", "filters"), "dense": ("dense_block", "units")}[kind]
    if any(width < 1 for width in widths):
        raise NetworkError(f"network.{of[1]} must be at least 1 each, not {widths}")
    if isinstance(block, str):
        return [parse_recipe(block, kind)] * len(widths)
    if len(block) != len(widths):
        raise NetworkError(
            f"network.{of[0]} lists {len(block)} recipes, network.{of[1]} {len(widths)} widths: "
            "give one recipe for all blocks, or one for each"
        )
    return [parse_recipe(recipe, kind) for recipe in block]


def _classifier(recipe: str) -> Dense:
    match list(parse_recipe(recipe, "dense").layers()):
        case [Dense(activation="linear", units=None) as layer]:
            return layer
    raise NetworkError(
        f"network.classifier is one dense(linear), such as dense(linear, no bias), not {recipe!r}: its logits are not "
        "activated, and its units are the classes"
    )


def _plan_block(name: str, recipe: Recipe, width: int, shape: Shape, dropout: float) -> tuple[PlannedLayer, ...]:
    planned: list[PlannedLayer] = []
    count: Counter[str] = Counter()
    for layer in recipe.layers():
        if len(planned) == MAX_LAYERS:  # before memory ends: (((conv) x99) x99) x99 is a million
            raise NetworkError(f"{name} has more than {MAX_LAYERS} layers: repeat its groups fewer times")
        if isinstance(layer, Dropout | SpatialDropout) and layer.rate is None:
            layer = replace(layer, rate=dropout)
        word = "activation" if isinstance(layer, Activation) else layer.word.replace(" ", "_")
        count[word] += 1
        own = layer.filters if isinstance(layer, Conv) else layer.units if isinstance(layer, Dense) else shape[-1]
        layer_width = own or width
        try:
            after = _output_shape(layer, layer_width, shape)
        except NetworkError as error:
            raise NetworkError(f"{name} ({recipe}) cannot be built: its {spell(layer)!r} {error}") from None
        planned.append(PlannedLayer(f"{name}.{word}{count[word]}", layer, layer_width, shape, after))
        shape = after
    return tuple(planned)


def _output_shape(layer: Layer, width: int, shape: Shape) -> Shape:
    match layer:
        case Dense():
            return (width,)
        case BatchNorm() | Dropout() | Activation():
            return shape
    if len(shape) == 1:
        raise NetworkError("comes after a global pool, which left no pixels")
    height, columns, channels = shape
    match layer:
        case Conv(stride=stride, padding="same"):
            return math.ceil(height / stride), math.ceil(columns / stride), width
        case Conv(kernel=size, stride=stride):
            _require_pixels(shape, size)
            return (height - size) // stride + 1, (columns - size) // stride + 1, width
        case GlobalAveragePool() | GlobalMaxPool():
            return (channels,)
        case SpatialDropout():
            return shape
        case ZeroPadding(pixels=pixels):
            return height + 2 * pixels, columns + 2 * pixels, channels
        case MaxPool(size=size, stride=stride, padding="same") | AveragePool(size=size, stride=stride, padding="same"):
            step = stride or size
            return math.ceil(height / step), math.ceil(columns / step), channels
        case MaxPool(size=size, stride=stride) | AveragePool(size=size, stride=stride):
            _require_pixels(shape, size)
            step = stride or size
            return (height - size) // step + 1, (columns - size) // step + 1, channels
    raise AssertionError(layer)


def _require_pixels(shape: Shape, size: int) -> None:
    height, columns, _ = shape
    if min(height, columns) < size:
        raise NetworkError(
            f"needs {size}x{size} pixels and gets {height}x{columns}; use fewer blocks, fewer pools, or larger images"
        )


def idle_biases(layers: Sequence[PlannedLayer]) -> set[str]:
    """The biases that a batch norm cancels entirely: their true gradient is 0, and Adam amplifies its rounding."""
    idle = set()
    for number, layer in enumerate(layers):
        linear = isinstance(layer.layer, BatchNorm) or getattr(layer.layer, "activation", "") == "linear"
        following = itertools.dropwhile(
            lambda planned: isinstance(planned.layer, MaxPool | AveragePool | GlobalAveragePool | GlobalMaxPool),
            layers[number + 1 :],
        )
        if linear and any(isinstance(planned.layer, BatchNorm) for planned in itertools.islice(following, 1)):
            idle.add(f"{layer.name}.bias")
    return idle
