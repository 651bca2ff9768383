"""Keras models as people write them: ported, proven, and refused where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_reference.porting import PortedModel, port_model, with_classifier
from lightning_vgg import cli
from lightning_vgg.api import build_network
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.dataset import load_dataset
from lightning_vgg.runs.folder import RunFolder
from parity_tests.frameworks import keras
from parity_tests.ladder import failed
from parity_tests.port import port_keras_model, write_port
from parity_tests.port_proof import pixels_of, prove
from parity_tests.user_models import load_keras_model

pytestmark = pytest.mark.slow
layers, losses, optimizers, l2 = keras.layers, keras.losses, keras.optimizers, keras.regularizers.L2


@pytest.fixture(autouse=True)
def float32() -> None:
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)


def tutorial() -> keras.Model:
    """The network of TensorFlow's tutorial "Convolutional Neural Network (CNN)", by a third as wide."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(10, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(20, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(20, (3, 3), activation="relu"),
            layers.Flatten(),
            layers.Dense(20, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile(optimizer="adam", loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def vgg_with_l2() -> keras.Model:
    """geifmany/cifar-vgg, of two of its blocks and an eighth as wide."""
    model = keras.Sequential([keras.Input((16, 16, 3))])
    for width, rate in ((8, 0.3), (16, 0.4)):
        for dropped in (rate, None):
            model.add(layers.Conv2D(width, (3, 3), padding="same", kernel_regularizer=l2(0.0005)))
            model.add(layers.Activation("relu"))
            model.add(layers.BatchNormalization())
            if dropped:
                model.add(layers.Dropout(dropped))
        model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Dropout(0.5))
    model.add(layers.Flatten())
    model.add(layers.Dense(32, kernel_regularizer=l2(0.0005)))
    model.add(layers.Activation("relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(10))
    model.add(layers.Activation("softmax"))
    model.compile(optimizers.SGD(0.1, momentum=0.9, nesterov=True), loss="categorical_crossentropy")
    return model


def every_argument() -> keras.Model:
    images = keras.Input((20, 20, 3))
    hidden = layers.Rescaling(1 / 127.5, offset=-1)(images)
    hidden = layers.ZeroPadding2D(1)(hidden)
    hidden = layers.Conv2D(8, 5, 2, padding="same", use_bias=False, kernel_initializer="he_normal")(hidden)
    hidden = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, scale=False)(hidden)
    hidden = layers.LeakyReLU()(hidden)
    hidden = layers.SpatialDropout2D(0.2)(hidden)
    hidden = layers.AveragePooling2D(3, 2, padding="same")(hidden)
    hidden = layers.Conv2D(12, 3, activation="gelu")(hidden)
    hidden = layers.ELU()(layers.Conv2D(6, 1)(hidden))
    hidden = layers.GlobalMaxPooling2D()(hidden)
    hidden = layers.Dense(9, activation="tanh")(layers.Dropout(0.1)(hidden))
    outputs = layers.Softmax()(layers.Dense(4, kernel_regularizer=l2(0.01), use_bias=False)(hidden))
    model = keras.Model(images, outputs)
    optimizer = optimizers.AdamW(3e-4, weight_decay=0.01, global_clipnorm=0.1)
    model.compile(optimizer, loss=losses.CategoricalCrossentropy(label_smoothing=0.1))
    return model


def on_a_backbone() -> keras.Model:
    """A model in a model, under a fresh classifier."""
    images = keras.Input((16, 16, 3))
    hidden = layers.Conv2D(6, 3, activation="relu", padding="same", name="block1_conv1")(images)
    return with_classifier(keras.Model(images, layers.MaxPooling2D(name="block1_pool")(hidden)), 10)


def mnist() -> keras.Model:
    """The network of Keras's example "Simple MNIST convnet", by a quarter as wide."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(16, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def normalized() -> keras.Model:
    scaling = layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3600.0, 2500.0, 4900.0])
    return keras.Sequential([keras.Input((8, 8, 3)), scaling, layers.GlobalAveragePooling2D(), layers.Dense(3)])


def adapted() -> keras.Model:
    scaling = layers.Normalization()
    scaling.adapt(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.float32))
    return keras.Sequential([keras.Input((8, 8, 3)), scaling, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)])


MODELS = [tutorial, mnist, vgg_with_l2, every_argument, on_a_backbone, normalized, adapted]


@pytest.mark.parametrize("make", MODELS)
def test_a_ported_model_is_the_same_to_the_floor(make: Callable[[], keras.Model]) -> None:
    model = make()
    ported = port_model(model)
    report = prove(model, ported, pixels_of(ported.plan, None))
    assert report.passed and report.culprit is None, report
    normalized = any(name.endswith("running_var") for name in ported.weights())
    assert ("batch norm statistics" in [rung.name for rung in report.rungs]) == normalized
    assert ported.plan.trainable_parameters == sum(np.prod(each.shape) for each in model.trainable_weights)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["VGG16", "VGG19"])
@pytest.mark.parametrize("top", [True, False])
def test_the_vggs_of_keras_applications(name: str, top: bool) -> None:
    make = getattr(keras.applications, name)
    model = make(weights=None, include_top=top, input_shape=(32, 32, 3), classes=10)
    model = model if top else with_classifier(model, 10)
    ported = port_model(model)
    assert prove(model, ported, pixels_of(ported.plan, None)).passed


def test_another_output_than_the_models_own_is_caught() -> None:
    model = tutorial()
    wrong = replace(port_model(model), softmax=True)
    (rung,) = failed(prove(model, wrong, pixels_of(wrong.plan, None)).rungs)
    assert rung.name == "the model's own output"


def changed(ported: PortedModel, **network: Any) -> PortedModel:
    spec = replace(ported.network, **network)
    plan = plan_network(spec, ported.plan.input_shape[0], ported.plan.num_classes)
    return replace(ported, network=spec, plan=plan)


@pytest.mark.parametrize(
    ("make", "fault", "rung", "where"),
    [
        (vgg_with_l2, ("l2 0.0005", "l2 0.001"), "loss", "loss"),
        (every_argument, ("epsilon 0.00001", "epsilon 0.001"), "output in evaluation", "block1.batch_norm1"),
        (every_argument, ("slope 0.3", "slope 0.2"), "output in evaluation", "between network.block1.batch_norm1"),
        (every_argument, ("momentum 0.9", "momentum 0.99"), "batch norm statistics", "momentum: 0.99 instead of 0.9"),
        (
            every_argument,
            ("average pool(3x3, stride 2, same)", "maxpool(3x3, stride 2, same)"),
            "output in evaluation",
            "and network.block2.conv1",
        ),
    ],
)
def test_a_wrong_port_is_caught(make: Callable[[], keras.Model], fault: tuple[str, str], rung: str, where: str) -> None:
    model = make()
    ported = port_model(model)
    blocks = ported.network.conv_block
    assert any(fault[0] in block for block in blocks)
    wrong = changed(ported, conv_block=[block.replace(*fault) for block in blocks])
    report = prove(model, wrong, pixels_of(ported.plan, None))
    assert rung in [each.name for each in failed(report.rungs)]
    assert report.culprit is not None and where in report.culprit


def test_a_wrong_optimizer_is_caught() -> None:
    model = vgg_with_l2()
    ported = port_model(model)
    assert ported.optimizer is not None
    wrong = replace(ported, optimizer=replace(ported.optimizer, nesterov=False))
    (rung,) = failed(prove(model, wrong, pixels_of(ported.plan, None)).rungs)
    assert rung.name.startswith("one step of sgd")


@pytest.mark.parametrize("name", ["my_model.keras", "my_model.h5"])
def test_the_command_writes_an_experiment_that_starts_as_the_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    model = tutorial()
    model.save(name)
    assert cli.run(["port", name]) == 0
    printed = capsys.readouterr().out
    assert "7 of 7 checks passed" in printed and "note: the model does not scale its pixels" in printed
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    import torch

    network = build_network("my_model/experiment.yaml").eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(logits, model.predict(images, verbose=0), rtol=0, atol=1e-6)
    assert cli.run(["port", name]) == 2
    assert "my_model/experiment.yaml exists" in capsys.readouterr().err


def chain_with(*middle: keras.layers.Layer, size: tuple[int, int, int] = (8, 8, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(size), *middle, layers.Flatten(), layers.Dense(2)])


def branch() -> keras.Model:
    images = keras.Input((8, 8, 3))
    hidden = layers.Conv2D(3, 3, padding="same")(images)
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(layers.Add(name="sum")([images, hidden]))))


def used_twice() -> keras.Model:
    images = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, name="shared")
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(shared(shared(images)))))


class Subclassed(keras.Model):  # type: ignore[misc]
    input_shape = (None, 8, 8, 3)


REFUSED: list[tuple[Callable[[], keras.Model], str]] = [
    (lambda: chain_with(layers.Lambda(lambda x: x, name="mine")), r"layer 1, 'mine' \(Lambda\)"),
    (
        lambda: chain_with(layers.GaussianNoise(0.1, name="noise")),
        r"'noise' \(GaussianNoise\): this kind of layer is not",
    ),
    (branch, "layer 'sum'"),
    (used_twice, "or uses a layer twice"),
    (Subclassed, "is a subclass of keras.Model"),
    (lambda: chain_with(layers.Conv2D(4, (3, 5), name="oblong")), r"'oblong' \(Conv2D\): kernel \(3, 5\)"),
    (lambda: chain_with(layers.Conv2D(4, 3, dilation_rate=2)), "groups and dilation are not known"),
    (lambda: chain_with(layers.Conv2D(4, 3, activation="softplus")), "activation 'softplus' is not known"),
    (lambda: chain_with(layers.Conv2D(4, 3, bias_regularizer="l2")), "bias_regularizer is not known"),
    (lambda: chain_with(layers.Conv2D(4, 3, kernel_regularizer="l1")), "only L2 is known"),
    (lambda: chain_with(layers.ReLU(max_value=6)), "max_value"),
    (lambda: chain_with(layers.BatchNormalization(axis=1)), "axis 1 is not that of the channels"),
    (lambda: chain_with(layers.ZeroPadding2D(((1, 0), (0, 0)))), "not the same on every side"),
    (lambda: chain_with(layers.Dense(4, name="pixelwise")), "'pixelwise'.*for every pixel"),
    (lambda: chain_with(layers.Conv2D(4, 3), layers.Rescaling(2.0)), "only the first layer may scale"),
    (lambda: chain_with(layers.Softmax(), layers.ReLU(name="late")), "'late'.*has to be the end"),
    (lambda: chain_with(size=(8, 6, 3)), "8 x 6 pixels"),
    (lambda: chain_with(size=(8, 8, 2)), "2 channels, not one or three"),
    (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)]), "does not end with a dense layer"),
    (lambda: chain_with(layers.Conv2D(4, 3, dtype="float16", name="half")), "'half': its weights are float16"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED)
def test_what_cannot_be_ported_is_named(make: Callable[[], keras.Model], says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        port_model(make())


class Mine(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return inputs


def test_files_that_keras_cannot_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tutorial().save("whole.keras")
    Path("cut.keras").write_bytes(Path("whole.keras").read_bytes()[:5000])
    Path("text.h5").write_text("no model")
    Path("model.pt").write_text("")
    Path("saved").mkdir()
    chain_with(layers.Lambda(lambda x: x)).save("code.keras")
    chain_with(Mine()).save("custom.keras")
    for name, says in (
        ("cut.keras", "Keras cannot read cut.keras"),
        ("text.h5", "Keras cannot read text.h5"),
        ("model.pt", "no .keras or .h5 file"),
        ("saved", "is a folder"),
        ("missing.keras", "there is no file"),
        ("code.keras", "Keras cannot read code.keras: .*[Ll]ambda"),
        ("custom.keras", r"custom.keras has objects of classes that are not Keras's own: Mine \('mine.*'\)"),
        ("nowhere:model", "No module named 'nowhere'"),
        ("keras:__version__x", "has no attribute"),
    ):
        with pytest.raises(ExperimentError, match=says):
            load_keras_model(name)


def test_what_is_not_kept_is_said(tmp_path: Path) -> None:
    model = chain_with(layers.Conv2D(4, 3, kernel_initializer="orthogonal", name="first"))
    rate = optimizers.schedules.CosineDecay(0.01, 100)
    model.compile(optimizers.Adam(rate, clipnorm=1.0), loss="mse")
    ported = port_model(model)
    notes = "\n".join(ported.notes)
    for part in ("first: its initializer Orthogonal", "clipnorm is not kept", "CosineDecay is not kept", "loss mse"):
        assert part in notes
    assert ported.optimizer is not None and ported.optimizer.learning_rate == pytest.approx(0.01)
    write_port(ported, tmp_path / "mine")
    assert "# first: its initializer Orthogonal" in (tmp_path / "mine" / "experiment.yaml").read_text()


def test_a_model_of_grey_images_trains_on_grey_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = mnist()
    port_keras_model(model, "mnist")
    flags = ["--data.source", "digits", "--data.train_images", "100", "--trainer.max_epochs", "1"]
    flags += ["--trainer.logger", "false", "--model.optimizer.learning_rate", "1e-30", "--name", "one"]
    assert cli.run(["fit", "-c", "mnist/experiment.yaml", *flags]) == 0
    images = load_dataset(DataSpec("digits", image_size=28, grayscale=True)).test.images
    assert images.shape[1:] == (28, 28, 1)
    _, logits = RunFolder(Path("runs/mnist/one")).read_predictions()
    expected = model.predict(images[:20] / np.float32(255), verbose=0)
    np.testing.assert_allclose(np.exp(logits[:20]) / np.exp(logits[:20]).sum(1, keepdims=True), expected, atol=1e-5)
    assert cli.run(["predict", "runs/mnist/one", *_as_files(images[:2])]) == 0
    printed = capsys.readouterr().out
    for number, each in enumerate(expected[:2]):
        assert f"{number}.png  {each.argmax()}  {each.max():.1%}" in printed


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", [mnist, vgg_with_l2])
def test_a_ported_experiment_climbs_the_whole_ladder(
    make: Callable[[], keras.Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    port_keras_model(make(), "ported")
    assert cli.run(["parity", "-c", "ported/experiment.yaml", "--data.source", "digits"]) == 0
    assert "rungs passed" in capsys.readouterr().out


def _as_files(images: np.ndarray) -> list[str]:
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(f"{number}.png")
    return [f"{number}.png" for number in range(len(images))]
