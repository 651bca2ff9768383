"""The layers in torch, each against a few lines of numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import torch
from numpy.testing import assert_allclose
from scipy.signal import correlate2d
from torch import Tensor, nn

from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.recipe import INITIALIZERS
from lightning_vgg.experiment.semantics import KERAS, TORCH, Semantics
from lightning_vgg.experiment.specs import NetworkSpec
from lightning_vgg.training.blocks import ActivatedConv, BiasedBatchNorm, build_network
from lightning_vgg.training.initializers import initialize_kernel


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def one_block(recipe: str, size: int, semantics: Semantics, channels: int = 3, width: int = 4) -> nn.Module:
    """The layers of one convolutional block."""
    spec = NetworkSpec(conv_block=recipe, filters=[width], units=[])
    return build_network(plan_network(spec, size, 2, channels), semantics).get_submodule("block1")


# --- batch norm -------------------------------------------------------------------------------------------------------

EPSILON, MOMENTUM = 1e-3, 0.01


def batch_norm(channels: int, kind: Callable[..., nn.Module] = BiasedBatchNorm) -> nn.Module:
    norm = kind(channels, eps=EPSILON, momentum=MOMENTUM).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


@pytest.mark.parametrize("shape", [(7, 3), (2, 3), (4, 3, 5, 6), (1, 3, 2, 1)])
def test_batch_norm_against_numpy(shape: tuple[int, ...]) -> None:
    norm = batch_norm(3)
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)

    def column(values: np.ndarray) -> np.ndarray:
        return values.reshape((1, -1) + (1,) * (len(shape) - 2))

    gamma, beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    running_mean, running_variance = np.zeros(3), np.ones(3)
    random = np.random.default_rng(0)
    for _ in range(6):
        x = random.normal(3, 2, shape)
        output = norm(torch.from_numpy(x))
        mean, variance = x.mean(axes), x.var(axes)  # numpy's var is the biased one
        running_mean = 0.99 * running_mean + 0.01 * mean
        running_variance = 0.99 * running_variance + 0.01 * variance
        expected = (x - column(mean)) / np.sqrt(column(variance) + EPSILON) * column(gamma) + column(beta)
        assert_allclose(output.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
        assert_allclose(norm.running_mean.numpy(), running_mean, rtol=1e-13)
        assert_allclose(norm.running_var.numpy(), running_variance, rtol=1e-13)
    norm.eval()
    expected = (x - column(running_mean)) / np.sqrt(column(running_variance) + EPSILON) * column(gamma) + column(beta)
    assert_allclose(norm(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)
    assert_allclose(norm.running_var.numpy(), running_variance, rtol=1e-13)  # looking does not touch


@pytest.mark.parametrize(("shape", "theirs"), [((7, 3), nn.BatchNorm1d), ((4, 3, 5, 6), nn.BatchNorm2d)])
def test_batch_norm_has_the_gradients_of_torch(shape: tuple[int, ...], theirs: type[nn.Module]) -> None:
    gradients = []
    x, upstream = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    for kind in (BiasedBatchNorm, theirs):
        norm, images = batch_norm(3, kind), x.clone().requires_grad_()
        norm(images).backward(upstream)
        gradients.append((images.grad, norm.weight.grad, norm.bias.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-13, atol=1e-13)


def test_running_variance_differs_from_torch_by_the_divisor() -> None:
    ours, theirs = batch_norm(3), batch_norm(3, nn.BatchNorm1d)
    x = torch.randn(5, 3, dtype=torch.float64)
    ours(x), theirs(x)
    start = 1 - MOMENTUM
    torch.testing.assert_close(
        (ours.running_var - start) / (theirs.running_var - start), torch.full((3,), 0.8).double()
    )


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_channel_gives_beta(shape: tuple[int, ...]) -> None:
    norm = batch_norm(3)
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        norm.zero_grad()
        output = norm(x)
        assert torch.equal(output, norm.bias.reshape(shape))
        output.backward(torch.full(shape, 2.0, dtype=torch.float64))
        assert torch.equal(x.grad, torch.zeros(shape, dtype=torch.float64))
        assert torch.equal(norm.weight.grad, torch.zeros(3, dtype=torch.float64))
        assert torch.equal(norm.bias.grad, torch.full((3,), 2.0, dtype=torch.float64))
        mean, variance = 0.99 * mean + 0.01 * x.detach().numpy().ravel(), 0.99 * variance
        assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-13)
        assert_allclose(norm.running_var.numpy(), variance, rtol=1e-13)


def test_one_value_a_channel_is_an_error_in_torch() -> None:
    network = build_network(plan_network(NetworkSpec("conv - maxpool", [2], "dense - batch norm", [3]), 2, 2), TORCH)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.randn(1, 3, 2, 2))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_refuses_other_shapes(training: bool) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, C\) or \(B, C, H, W\), got \(2, 3, 4\)"):
        batch_norm(3).train(training)(torch.zeros(2, 3, 4, dtype=torch.float64))


def test_frozen_statistics_of_a_copy_stay_apart() -> None:
    """Two networks of one plan share nothing."""
    plan = plan_network(NetworkSpec("conv - batch norm", [2]), 4, 2)
    first, second = build_network(plan, KERAS), build_network(plan, KERAS)
    first(torch.randn(2, 3, 4, 4))
    assert torch.equal(second.get_submodule("block1.batch_norm1").running_mean, torch.zeros(2))  # type: ignore[arg-type]


# --- padding ----------------------------------------------------------------------------------------------------------


def reference_convolution(image: np.ndarray, kernel: np.ndarray, stride: int, before: int, after: int) -> np.ndarray:
    return correlate2d(np.pad(image, (before, after)), kernel, mode="valid")[::stride, ::stride]


def keras_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's definition of SAME, from its documentation."""
    total = max(kernel - (stride if size % stride == 0 else size % stride), 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 8])
def test_padding(size: int, kernel: int, stride: int) -> None:
    image = np.random.default_rng(0).normal(size=(size, size))
    for semantics in (KERAS, TORCH):
        conv = one_block(f"conv({kernel}x{kernel}, stride {stride}, linear)", size, semantics, channels=1, width=1)
        conv = conv.double()
        weights = conv.conv1.weight.detach().numpy()[0, 0]  # type: ignore[operator, union-attr]
        bias = conv.conv1.bias.item()  # type: ignore[operator, union-attr]
        padding = keras_padding(size, kernel, stride)
        if semantics is TORCH and stride > 1 and kernel % 2:
            padding = (kernel // 2, kernel // 2)
        expected = reference_convolution(image, weights, stride, *padding) + bias
        assert expected.shape == (math.ceil(size / stride),) * 2
        output = conv(torch.from_numpy(image)[None, None])[0, 0]
        assert_allclose(output.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_padding_by_hand() -> None:
    """A kernel that picks its centre, 4 x 4 pixels, stride 2: with all padding after, the windows' centres are the
    pixels 1 and 3; with padding on both sides 0 and 2."""
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    for semantics, expected in ((KERAS, [[5.0, 7.0], [13.0, 15.0]]), (TORCH, [[0.0, 2.0], [8.0, 10.0]])):
        (conv,) = one_block("conv(stride 2, linear, no bias)", 4, semantics, channels=1, width=1).children()
        with torch.no_grad():
            conv.weight.zero_()[0, 0, 1, 1] = 1  # type: ignore[operator, union-attr]
        assert conv(image)[0, 0].tolist() == expected


def test_even_padding_costs_no_copy() -> None:
    (conv,) = one_block("conv(5x5)", 8, KERAS).children()
    assert isinstance(conv, ActivatedConv)
    assert conv.uneven_padding is None
    assert conv.padding == (2, 2)


# --- initialization ---------------------------------------------------------------------------------------------------


def test_glorot_bounds() -> None:
    network = build_network(plan_network(NetworkSpec("conv(5x5) - maxpool", [64], "dense", [96]), 8, 10), KERAS)
    for name, fan_in, fan_out in (
        ("block1.conv1", 25 * 3, 25 * 64),
        ("head1.dense1", 16 * 64, 96),
        ("classifier", 96, 10),
    ):
        layer = network.get_submodule(name)
        weight = layer.weight.detach()
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert isinstance(weight, Tensor)
        assert 0.98 * bound < weight.abs().max() <= bound
        # A uniform distribution: its standard deviation, and a quarter of the values in each quarter.
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        quarters = torch.histc(weight, 4, -bound, bound) / weight.numel()
        assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.05)
        assert torch.equal(layer.bias, torch.zeros(layer.bias.numel()))  # type: ignore[arg-type, operator, union-attr]


def test_torch_semantics_are_torchs_own_defaults() -> None:
    spec = NetworkSpec("conv - batch norm - conv(stride 2, linear) - maxpool - dropout", [4], "dense - batch norm", [6])
    torch.manual_seed(3)
    ours = build_network(plan_network(spec, 8, 5), TORCH)
    torch.manual_seed(3)
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.ReLU(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 5),
    )
    for mine, yours in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, yours)
    images = torch.randn(7, 3, 8, 8)
    for training in (True, False):
        outputs = []
        for network in (ours, theirs):
            torch.manual_seed(4)  # of the dropout
            outputs.append(network.train(training)(images))
        assert torch.equal(*outputs)
    for mine, yours in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(mine, yours)
    assert {type(module) for module in ours.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)} == {
        nn.BatchNorm1d,
        nn.BatchNorm2d,
    }


def test_keras_batch_norm_constants() -> None:
    norm = one_block("batch norm", 4, KERAS).get_submodule("batch_norm1")
    assert isinstance(norm, BiasedBatchNorm)
    assert norm.eps == 1e-3
    assert norm.momentum == pytest.approx(0.01, rel=1e-14)


# --- the other layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.6])
def test_dropout_rate(rate: float) -> None:
    block = one_block(f"dropout({rate})", 64, KERAS)
    kept = block(torch.ones(8, 3, 64, 64)).ravel()
    assert (kept == 0).double().mean().item() == pytest.approx(rate, abs=0.01)
    assert torch.allclose(kept[kept != 0], torch.tensor(1 / (1 - rate)))
    assert torch.equal(block.eval()(torch.ones(1, 3, 64, 64)), torch.ones(1, 3, 64, 64))


ACTIVATION_FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky relu": lambda x: np.where(x > 0, x, float(np.float32(0.2)) * x),  # as TensorFlow rounds it
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "gelu": lambda x: x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATION_FORMULAS)
def test_activations(name: str) -> None:
    x = torch.linspace(-4, 4, 48, dtype=torch.float64).reshape(1, 3, 4, 4)
    output = one_block(name, 4, KERAS)(x)
    assert_allclose(output.numpy(), ACTIVATION_FORMULAS[name](x.numpy()), rtol=1e-12, atol=1e-15)
    for recipe in (f"conv({name})", f"conv(linear) - {name}"):
        torch.manual_seed(1)
        block = one_block(recipe, 4, KERAS).double()
        linear = torch.nn.functional.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)  # type: ignore[arg-type, union-attr]
        expected = ACTIVATION_FORMULAS[name](linear.detach().numpy())
        assert_allclose(block(x).detach().numpy(), expected, rtol=1e-10, atol=1e-13)


def test_conv_and_dense_carry_a_relu() -> None:
    spec = NetworkSpec("conv", [8], "dense", [8])
    network = build_network(plan_network(spec, 4, 3), KERAS)
    x = torch.randn(4, 3, 4, 4)
    for name in ("block1", "flatten", "head1"):
        x = network.get_submodule(name)(x)
        assert x.min() == 0 < x.max()
    assert network.get_submodule("classifier")(x).min() < 0


def test_pools() -> None:
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert one_block("maxpool", 5, KERAS, channels=1)(x)[0, 0].tolist() == [[6, 8], [16, 18]]
    assert one_block("maxpool(3, stride 2)", 5, KERAS, channels=1)(x)[0, 0].tolist() == [[12, 14], [22, 24]]
    assert one_block("average pool", 5, KERAS, channels=1)(x)[0, 0].tolist() == [[3, 5], [13, 15]]
    assert one_block("global average pool", 5, KERAS, channels=1)(x).tolist() == [[12]]


def test_the_bias_can_be_left_out() -> None:
    spec = NetworkSpec("conv(no bias)", [2], "dense(no bias)", [3])
    for semantics in (KERAS, TORCH):
        network = build_network(plan_network(spec, 4, 3), semantics)
        assert [name for name in network.state_dict() if "bias" in name] == ["classifier.bias"]


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_initializers_draw_the_distribution_that_keras_documents(initializer: str) -> None:
    torch.manual_seed(0)
    weight = torch.empty(64, 48, 3, 3, dtype=torch.float64)
    initialize_kernel(weight, initializer)
    fan_in, fan_out = 48 * 9, 64 * 9
    variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[initializer.split()[0]]
    assert weight.var().item() == pytest.approx(variance, rel=0.03)
    largest = 3**0.5 if "uniform" in initializer else 2 / 0.8796  # in standard deviations: where each is cut off
    assert weight.abs().max().item() / variance**0.5 == pytest.approx(largest, rel=0.01)
