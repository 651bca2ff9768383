"""Torch modules and Keras models that this project has not built: the same, or parted at the layer that is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg16

from lightning_vgg import cli
from lightning_vgg.common.errors import ExperimentError
from parity_tests import PairReport, compare_pair
from parity_tests.frameworks import keras

pytestmark = pytest.mark.slow
layers = keras.layers


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.clear_session()  # names of layers are counted from here
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    torch.manual_seed(0)


class Plain(nn.Module):
    """Functions where others have modules, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(8 * 3 * 3, 12)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.conv1(images))
        hidden = nn.functional.max_pool2d(torch.relu(self.conv2(hidden)), 2)
        return self.fc2(self.drop(torch.tanh(self.fc1(hidden.flatten(1)))))


def plain(padding: str = "as torch", activation: str | None = "relu") -> keras.Model:
    first = [layers.ZeroPadding2D(1), layers.Conv2D(6, 3, 2, activation="relu", name="first")]
    if padding == "same":
        first = [layers.Conv2D(6, 3, 2, padding="same", activation="relu", name="first")]
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            *first,
            layers.Conv2D(8, 3, activation=activation, name="second"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(12, activation="tanh", name="hidden"),
            layers.Dropout(0.3),
            layers.Dense(5, activation="softmax", name="classes"),
        ]
    )


class Residual(nn.Module):
    """Two blocks, the second of stride 2 with a convolution in its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block1 = self._block(8, 8, 1)
        self.block2 = self._block(8, 16, 2)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 4)

    def _block(self, channels: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        hidden = torch.relu(self.block1(hidden) + hidden)
        hidden = torch.relu(self.block2(hidden) + self.shortcut(hidden))
        return self.head(hidden.mean((2, 3)))


def residual(momentum: float = 0.9) -> keras.Model:
    """The shortcut is built before its block, so the order of the calls is another one than torch's."""

    def conv_norm(images: keras.KerasTensor, width: int, size: int, stride: int) -> keras.KerasTensor:
        images = layers.ZeroPadding2D(1)(images) if size == 3 else images
        images = layers.Conv2D(width, size, stride, use_bias=False)(images)
        return layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(images)

    def block(images: keras.KerasTensor, width: int, stride: int) -> keras.KerasTensor:
        return conv_norm(layers.ReLU()(conv_norm(images, width, 3, stride)), width, 3, 1)

    images = keras.Input((12, 12, 3))
    hidden = layers.ReLU()(conv_norm(images, 8, 3, 1))
    hidden = layers.ReLU()(block(hidden, 8, 1) + hidden)
    shortcut = conv_norm(hidden, 16, 1, 2)
    hidden = layers.ReLU()(layers.Add()([shortcut, block(hidden, 16, 2)]))
    return keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(hidden)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.SiLU(), nn.Conv2d(6, 4, 1), nn.Flatten())
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def depthwise() -> keras.Model:
    """A model within the model."""
    images = keras.Input((10, 10, 3))
    hidden = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="silu")(images)
    body = keras.Model(images, layers.Flatten()(layers.Conv2D(4, 1)(hidden)), name="body")
    return keras.Sequential([keras.Input((10, 10, 3)), layers.Rescaling(1.0), body, layers.Dense(3)])


def names(report: PairReport) -> list[str]:
    return [rung.name for rung in report.rungs if not rung.passed]


@pytest.mark.parametrize(("module", "model"), [(Plain, plain), (Residual, residual), (Depthwise, depthwise)])
def test_the_same_network_is_the_same_to_the_floor(
    module: Callable[[], nn.Module], model: Callable[[], keras.Model]
) -> None:
    ours, theirs = module(), model()
    before = [ours.state_dict(), theirs.get_weights()]
    report = compare_pair(ours, theirs)
    assert report.passed and report.culprit is None, report
    assert max(rung.measured for rung in report.rungs) < 1e-11
    assert "the weights are not the same in both" in "".join(report.notes)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in before[0].items())
    assert all(np.array_equal(*pair) for pair in zip(before[1], theirs.get_weights(), strict=True))


def test_layers_are_matched_by_their_place() -> None:
    found = compare_pair(Residual(), residual()).layers
    assert found["shortcut.0"] == "conv2d_3" and found["block2.0"] == "conv2d_4"
    assert found["shortcut.1"] == "batch_normalization_3"


def carried_over(flattened: bool) -> tuple[Plain, keras.Model]:
    """The pair with torch's weights in Keras; the first dense kernel with its rows reordered or not."""
    ours, theirs = Plain(), plain()
    for name, module in (("first", ours.conv1), ("second", ours.conv2)):
        kernel = module.weight.detach().numpy().transpose(2, 3, 1, 0)
        theirs.get_layer(name).set_weights([kernel, module.bias.detach().numpy()])
    kernel = ours.fc1.weight.detach().numpy()
    if flattened:
        kernel = kernel.reshape(-1, 8, 3, 3).transpose(0, 2, 3, 1).reshape(12, -1)
    theirs.get_layer("hidden").set_weights([kernel.T, ours.fc1.bias.detach().numpy()])
    theirs.get_layer("classes").set_weights([ours.fc2.weight.detach().numpy().T, ours.fc2.bias.detach().numpy()])
    return ours, theirs


def test_weights_as_given_are_compared_first() -> None:
    report = compare_pair(*carried_over(flattened=True))
    assert report.passed and report.rungs[0].name == "weights as given"


def test_a_kernel_whose_rows_were_not_reordered() -> None:
    report = compare_pair(*carried_over(flattened=False))
    assert names(report) == ["weights as given"]
    assert report.culprit is not None
    assert report.culprit.startswith("fc1 (hidden in Keras): weight as given: the same values in another order: Keras")


@pytest.mark.parametrize(
    ("module", "model", "culprit"),
    [
        (Plain, lambda: plain(padding="same"), "conv1 (first in Keras): output differs"),
        (
            Plain,
            lambda: plain(activation=None),
            "between conv2 (second in Keras) and fc1 (hidden in Keras): has no relu in Keras, and one in torch",
        ),
        (
            Residual,
            lambda: residual(momentum=0.99),
            "stem.1 (batch_normalization in Keras): running mean: another momentum: 0.9 instead of 0.99",
        ),
    ],
)
def test_a_fault_is_named_by_its_layer(
    module: Callable[[], nn.Module], model: Callable[[], keras.Model], culprit: str
) -> None:
    report = compare_pair(module(), model())
    assert not report.passed
    assert report.culprit is not None and report.culprit.startswith(culprit), report.culprit


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((torch.sigmoid(self.left(images)) + torch.tanh(self.right(images))).mean((2, 3)))


def branches() -> keras.Model:
    images = keras.Input((8, 8, 3))
    one = layers.Conv2D(4, 3, activation="tanh", name="one")(images)
    other = layers.Conv2D(4, 3, activation="sigmoid", name="other")(images)
    return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Add()([one, other]))))


def test_branches_that_look_alike_are_asked_about_and_a_map_settles_it() -> None:
    with pytest.raises(ExperimentError, match="which is which"):
        compare_pair(Branches(), branches())
    right, wrong = ({"left": left, "right": right} for left, right in (("other", "one"), ("one", "other")))
    assert compare_pair(Branches(), branches(), names=right).passed
    assert not compare_pair(Branches(), branches(), names=wrong).passed
    with pytest.raises(ExperimentError, match="Keras has no layer 'missing' with weights; it has one, other"):
        compare_pair(Branches(), branches(), names={"left": "missing"})


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(images)).mean((2, 3)))


class Chance(Branches):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(images, training=self.training))


class Subclassed(keras.Model):  # type: ignore[misc]
    input_shape = (None, 8, 8, 3)


@pytest.mark.parametrize(
    ("module", "model", "says"),
    [
        (Plain, residual, "does not take the Keras model's images, .12, 12, 3."),
        (Branches, residual, "no counterpart: torch has 2 and Keras 0 layers like left"),
        (Twice, branches, "torch's layer conv is called twice"),
        (Chance, branches, "the torch module draws random numbers in training"),
        (Branches, Subclassed, "is a subclass of keras.Model"),
        (lambda: nn.Conv2d(3, 3, 3), branches, "not .images, classes."),
    ],
)
def test_what_cannot_be_compared_is_named(
    module: Callable[[], nn.Module], model: Callable[[], keras.Model], says: str
) -> None:
    names = {"left": "other", "right": "one"} if module is Chance else None
    with pytest.raises(ExperimentError, match=says):
        compare_pair(module(), model(), names=names)


NET = """
from torch import nn

def Net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    Path("my_net.py").write_text(NET)
    for name, activation in (("right", "relu"), ("wrong", None)):
        chain = [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation=activation), layers.Flatten(), layers.Dense(3)]
        keras.Sequential(chain).save(f"{name}.keras")
    assert cli.run(["parity", "--torch", "my_net.py:Net", "--keras", "right.keras", "--json", "pair.json"]) == 0
    assert "5 of 5 checks passed" not in capsys.readouterr().out  # without batch norm there is nothing to check of it
    found = json.loads(Path("pair.json").read_text())
    assert found["passed"] and found["layers"]["0"].startswith("conv2d")
    with pytest.raises(SystemExit, match="1"):
        cli.run(["parity", "--torch", "my_net.py:Net", "--keras", "wrong.keras"])
    printed = capsys.readouterr().out
    assert "first difference: between 0 (" in printed and "has no relu in Keras, and one in torch" in printed
    for args, says in (
        (["--torch", "my_net.py:Other", "--keras", "right.keras"], "my_net.py:Other: module 'my_net' has no attribute"),
        (["--torch", "my_net.py", "--keras", "right.keras"], "write it as my_net.py:Net"),
        (["--torch", "my_net.py:Net"], "required: --keras"),
        (["--torch", "my_net.py:Net", "--keras", "right.keras", "--map", "none.yaml"], "--map: none.yaml"),
    ):
        assert cli.run(["parity", *args]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.thorough
def test_torchvisions_vgg16_is_that_of_keras_applications() -> None:
    """Its convolutions; with its dense layers, at 224 pixels, copies in float64 take 15 GB and more."""
    theirs = keras.applications.VGG16(weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3))
    ours = nn.Sequential(vgg16().features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = compare_pair(ours, theirs, np.random.default_rng(0).standard_normal((4, 64, 64, 3)))
    assert report.passed and report.culprit is None, report
