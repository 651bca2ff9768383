"""The plan of a network: what torch builds is what was planned, or the plan says what cannot be."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vgg.experiment.network_plan import NetworkError, PlannedLayer, plan_network
from lightning_vgg.experiment.recipe import (
    ACTIVATIONS,
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    Group,
    Layer,
    MaxPool,
    Recipe,
    RecipeError,
    parse_recipe,
)
from lightning_vgg.experiment.semantics import KERAS, TORCH, Semantics
from lightning_vgg.experiment.specs import NetworkSpec
from lightning_vgg.training.blocks import build_network

# --- any network: built as planned, or refused ------------------------------------------------------------------------

activations = st.sampled_from(ACTIVATIONS)
anywhere = st.one_of(
    st.builds(BatchNorm, st.none() | st.floats(0, 0.9), st.booleans()),
    st.builds(Dropout, st.none() | st.floats(0, 0.9)),
    st.builds(Activation, activations),
)
among_pixels = st.one_of(
    st.builds(
        Conv, st.integers(1, 7), st.integers(1, 4), activations, st.booleans(), st.sampled_from(["same", "valid"])
    ),
    st.builds(MaxPool, st.integers(1, 4), st.none() | st.integers(1, 5)),
    st.builds(AveragePool, st.integers(1, 4), st.none() | st.integers(1, 5)),
    anywhere,
)
rarely_global = among_pixels | among_pixels | among_pixels | st.just(GlobalAveragePool())
among_features = st.builds(Dense, activations, st.booleans()) | anywhere


def recipes(layer: st.SearchStrategy[Layer]) -> st.SearchStrategy[str]:
    group = st.builds(Group, st.lists(layer, min_size=1, max_size=2).map(tuple), st.integers(2, 3))
    return st.lists(layer | layer | group, min_size=1, max_size=4).map(tuple).map(Recipe).map(str)


@st.composite
def networks(draw: st.DrawFn) -> NetworkSpec:
    filters = draw(st.lists(st.integers(1, 4), max_size=3))
    units = draw(st.lists(st.integers(1, 4), max_size=2))
    conv, dense = recipes(rarely_global), recipes(among_features)
    return NetworkSpec(
        conv_block=draw(conv | st.lists(conv, min_size=len(filters), max_size=len(filters))),
        filters=filters,
        dense_block=draw(dense | st.lists(dense, min_size=len(units), max_size=len(units))),
        units=units,
    )


def pixels_run_out(spec: NetworkSpec, image_size: int) -> bool:
    """Whether torch's own pooling refuses somewhere on the way, with no plan at hand."""
    blocks = [spec.conv_block] * len(spec.filters) if isinstance(spec.conv_block, str) else spec.conv_block
    image = torch.zeros(1, 1, image_size, image_size)
    try:
        for block in blocks:
            for layer in parse_recipe(block).layers():
                match layer:
                    case Conv(kernel=size, stride=stride, padding="valid"):
                        image = F.avg_pool2d(image, size, stride)
                    case Conv(stride=stride):  # "same": one output for every stride pixels that have begun
                        image = image[:, :, ::stride, ::stride]
                    case MaxPool(size=size, stride=stride):
                        image = F.max_pool2d(image, size, stride)
                    case AveragePool(size=size, stride=stride):
                        image = F.avg_pool2d(image, size, stride)
                    case GlobalAveragePool():
                        image = image.mean((2, 3))
    except (RuntimeError, IndexError):
        return True
    return False


def channels_last(output: Tensor) -> tuple[int, ...]:
    return (*output.shape[2:], output.shape[1])


def assert_built_as_planned(
    spec: NetworkSpec, image_size: int, num_classes: int, channels: int, semantics: Semantics
) -> None:
    plan = plan_network(spec, image_size, num_classes, channels)
    network = build_network(plan, semantics)
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update(
                {name: (channels_last(inputs[0]), channels_last(output))}
            )
        )
    logits = network(torch.randn(2, channels, image_size, image_size))
    assert logits.shape == (2, num_classes)
    assert {layer.name: (layer.input_shape, layer.output_shape) for layer in plan.layers} == {
        layer.name: seen[layer.name] for layer in plan.layers
    }
    for layer in plan.layers:
        module = network.get_submodule(layer.name)
        assert layer.trainable_parameters == sum(parameter.numel() for parameter in module.parameters())
        assert layer.width == layer.output_shape[-1]
    assert plan.trainable_parameters == sum(parameter.numel() for parameter in network.parameters())


@settings(deadline=None, max_examples=300)
@given(networks(), st.integers(1, 40), st.integers(1, 4), st.sampled_from([1, 3]), st.sampled_from([KERAS, TORCH]))
def test_every_network_is_built_as_planned_or_refused_by_the_plan(
    spec: NetworkSpec, image_size: int, num_classes: int, channels: int, semantics: Semantics
) -> None:
    if pixels_run_out(spec, image_size):
        with pytest.raises(NetworkError) as caught:
            plan_network(spec, image_size, num_classes, channels)
        named = re.match(r"block(\d+) \((.+)\) cannot be built: its '(.+)' (needs|comes after) ", str(caught.value))
        assert named is not None
        block = spec.conv_block if isinstance(spec.conv_block, str) else spec.conv_block[int(named[1]) - 1]
        assert parse_recipe(named[2]) == parse_recipe(block)
        assert next(parse_recipe(named[3]).layers()) in list(parse_recipe(block).layers())
    else:
        assert_built_as_planned(spec, image_size, num_classes, channels, semantics)


# --- known networks ---------------------------------------------------------------------------------------------------

VGG_WIDTHS = [64, 128, 256, 512, 512]


def vgg(convolutions: list[int], **more: object) -> NetworkSpec:
    blocks = [" - ".join(["conv"] * number + ["maxpool"]) for number in convolutions]
    return NetworkSpec(conv_block=blocks, filters=VGG_WIDTHS, dense_block="dense - dropout(0.5)", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [("vgg11", [1, 1, 2, 2, 2]), ("vgg13", [2] * 5), ("vgg16", [2, 2, 3, 3, 3]), ("vgg19", [2, 2, 4, 4, 4])],
)
def test_vgg_has_the_weights_of_torchvision(name: str, convolutions: list[int]) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(init_weights=False)
        ours = build_network(plan_network(vgg(convolutions, units=[4096, 4096]), 224, 1000), TORCH)
    assert [weight.shape for weight in ours.parameters()] == [weight.shape for weight in theirs.parameters()]


def test_parameters_of_vgg16() -> None:
    """14,714,688 without the top is Keras's count, 138,357,544 with it the paper's 138 millions."""
    whole = plan_network(vgg([2, 2, 3, 3, 3], units=[4096, 4096]), 224, 1000)
    convolutions = [layer for layer in whole.layers if isinstance(layer.layer, Conv)]
    assert sum(layer.trainable_parameters for layer in convolutions) == 14_714_688
    assert len(convolutions) == 13
    assert whole.blocks["block5"][-1].output_shape == (7, 7, 512)
    assert whole.trainable_parameters == 138_357_544
    tiny = plan_network(vgg([2, 2, 3, 3, 3], units=[]), 32, 10)
    assert tiny.blocks["block5"][-1].output_shape == (1, 1, 512)
    assert tiny.trainable_parameters == 14_714_688 + 512 * 10 + 10


def test_parameters_of_the_base_network() -> None:
    plan = plan_network(NetworkSpec(), 32, 10)
    assert [layer.trainable_parameters for layer in plan.layers if layer.trainable_parameters] == [
        27 * 32 + 32,
        2 * 32,
        9 * 32 * 32 + 32,
        9 * 32 * 64 + 64,
        2 * 64,
        9 * 64 * 64 + 64,
        9 * 64 * 128 + 128,
        2 * 128,
        9 * 128 * 128 + 128,
        4 * 4 * 128 * 128 + 128,
        128 * 10 + 10,
    ]
    assert plan.trainable_parameters == 551_018


def test_names_of_the_state_dict() -> None:
    spec = NetworkSpec(
        conv_block="(conv(no bias) - batch norm - relu) x2 - maxpool",
        filters=[2, 3],
        dense_block="dense - batch norm - dropout",
        units=[5, 4],
    )
    statistics = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = []
    for block in ("block1", "block2"):
        for number in (1, 2):
            expected.append(f"{block}.conv{number}.weight")
            expected += [f"{block}.batch_norm{number}.{name}" for name in statistics]
    for head in ("head1", "head2"):
        expected += [f"{head}.dense1.weight", f"{head}.dense1.bias"]
        expected += [f"{head}.batch_norm1.{name}" for name in statistics]
    expected += ["classifier.weight", "classifier.bias"]
    for semantics in (KERAS, TORCH):
        assert list(build_network(plan_network(spec, 8, 10), semantics).state_dict()) == expected


def test_names_of_layers_without_weights() -> None:
    spec = NetworkSpec(
        conv_block="conv - gelu - relu - average pool - maxpool - dropout - global average pool", filters=[2], units=[]
    )
    assert [layer.name for layer in plan_network(spec, 8, 10).layers] == [
        "block1.conv1",
        "block1.activation1",
        "block1.activation2",
        "block1.average_pool1",
        "block1.maxpool1",
        "block1.dropout1",
        "block1.global_average_pool1",
        "classifier",
    ]


def test_dropout_without_a_rate_takes_the_networks() -> None:
    spec = NetworkSpec("conv - dropout - dropout(0.1)", [2], "dense - dropout(0) - dropout", [3], dropout=0.375)
    plan = plan_network(spec, 4, 2)
    assert [layer.layer for layer in plan.layers if isinstance(layer.layer, Dropout)] == [
        Dropout(0.375),
        Dropout(0.1),
        Dropout(0.0),
        Dropout(0.375),
    ]
    network = build_network(plan, KERAS)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.375, 0.1, 0.0, 0.375]


def test_one_recipe_for_all_blocks_is_a_list_of_equals() -> None:
    together = NetworkSpec("conv - maxpool", [2, 3], "dense", [4, 5])
    apart = NetworkSpec(["conv - maxpool"] * 2, [2, 3], ["dense"] * 2, [4, 5])
    assert plan_network(together, 8, 3) == plan_network(apart, 8, 3)


def test_the_classifier_is_linear() -> None:
    layer = plan_network(NetworkSpec(), 32, 10).blocks["classifier"]
    assert layer == (PlannedLayer("classifier", Dense("linear"), 10, (128,), (10,)),)


def test_shapes_where_the_size_is_odd() -> None:
    """By hand: 15 -> conv stride 2 -> 8 -> pool 3 stride 2 -> 3 -> pool 2 -> 1."""
    spec = NetworkSpec("conv(stride 2) - maxpool(3, stride 2) - average pool", [2], units=[])
    shapes = [layer.output_shape for layer in plan_network(spec, 15, 10).blocks["block1"]]
    assert shapes == [(8, 8, 2), (3, 3, 2), (1, 1, 2)]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_pooling_away_the_last_pixel() -> None:
    spec = NetworkSpec("conv - maxpool", [2] * 6)
    assert plan_network(NetworkSpec("conv - maxpool", [2] * 5), 32, 10).blocks["block5"][-1].output_shape == (1, 1, 2)
    with pytest.raises(NetworkError) as caught:
        plan_network(spec, 32, 10)
    assert str(caught.value) == (
        "block6 (conv - maxpool) cannot be built: its 'maxpool' needs 2x2 pixels and gets 1x1; "
        "use fewer blocks, fewer pools, or larger images"
    )


@pytest.mark.parametrize("layer", ["conv", "maxpool", "average pool(3)", "global average pool"])
def test_pixels_after_a_global_average_pool(layer: str) -> None:
    spec = NetworkSpec(["conv - global average pool", layer], [2, 2])
    with pytest.raises(NetworkError, match=r"block2 \(.*its .* comes after a global pool") as caught:
        plan_network(spec, 8, 10)
    assert repr(str(parse_recipe(layer))) in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (NetworkSpec(conv_block=["conv"], filters=[2, 3]), "conv_block lists 1 recipes, network.filters 2 widths"),
        (NetworkSpec(dense_block=["dense"] * 2, units=[2]), "dense_block lists 2 recipes, network.units 1 widths"),
        (NetworkSpec(filters=[2, 0]), "network.filters must be at least 1 each"),
        (NetworkSpec(units=[-1]), "network.units must be at least 1 each"),
    ],
)
def test_widths_that_do_not_fit(spec: NetworkSpec, message: str) -> None:
    with pytest.raises(NetworkError, match=re.escape(message)):
        plan_network(spec, 32, 10)


@pytest.mark.parametrize(
    "spec", [NetworkSpec(conv_block="conv - dense"), NetworkSpec(dense_block="conv"), NetworkSpec(conv_block="cnov")]
)
def test_words_that_have_no_place(spec: NetworkSpec) -> None:
    with pytest.raises(RecipeError, match=r"\^"):
        plan_network(spec, 32, 10)


def test_features_after_the_last_block_are_all_its_values() -> None:
    plan = plan_network(NetworkSpec("conv - maxpool", [3, 5], units=[7]), 21, 2)
    last = plan.blocks["block2"][-1].output_shape
    assert last == (5, 5, 5)
    assert plan.blocks["head1"][0].input_shape == (math.prod(last),)


def test_a_layers_own_width_and_padding_count() -> None:
    first = "zero padding - conv(valid, 5 filters) - batch norm(no bias, no scale)"
    spec = NetworkSpec(
        conv_block=f"{first} - maxpool(3x3, stride 2, same) - conv",
        filters=[7],
        dense_block="dense(9 units) - dense",
        units=[4],
    )
    plan = plan_network(spec, 7, num_classes=3)
    shapes = [layer.output_shape for layer in plan.layers]
    assert shapes == [(9, 9, 3), (7, 7, 5), (7, 7, 5), (4, 4, 5), (4, 4, 7), (9,), (4,), (3,)]
    kernels = 3 * 3 * 3 * 5 + 3 * 3 * 5 * 7 + 4 * 4 * 7 * 9 + 9 * 4 + 4 * 3
    assert plan.trainable_parameters == kernels + 5 + 7 + 9 + 4 + 3


@pytest.mark.parametrize("classifier", ["dense", "dense(linear, 5 units)", "dense(linear) - dropout", "batch norm"])
def test_a_classifier_is_one_linear_dense_layer(classifier: str) -> None:
    with pytest.raises(NetworkError, match=r"network.classifier is one dense\(linear\)"):
        plan_network(NetworkSpec(classifier=classifier), 32, num_classes=10)
