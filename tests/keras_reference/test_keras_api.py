"""The functions of ``keras_reference``: the names of ``lightning_vgg``, by Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_reference
import lightning_vgg
from keras_reference import ExperimentError, RunFolder
from keras_reference.cli import run as run_command
from lightning_vgg.runs.folder import TESTED

SMALL = {
    "data.source": "digits",
    "data.image_size": 8,
    "data.train_images": 100,
    "model.network.filters": [4],
    "model.network.units": [],
    "trainer.max_epochs": 1,
    "trainer.logger": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("keras")
    return keras_reference.fit(SMALL, {"trainer.default_root_dir": folder})


def test_the_names_are_those_of_lightning_and_what_knows_no_framework_is_the_same() -> None:
    assert set(keras_reference.__all__) <= set(lightning_vgg.__all__)
    by_keras = {"build_network", "evaluate", "export_weights", "extract_features", "fit"}
    for name in keras_reference.__all__:
        assert (getattr(keras_reference, name) is getattr(lightning_vgg, name)) == (name not in by_keras), name


def test_a_run_has_the_results_that_evaluate_finds_again(
    trained: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    record = trained.read_record()
    assert record["framework"] == "keras"
    assert len(trained.read_history()) == 1
    found = keras_reference.evaluate(trained, {"data.eval_batch_size": 50})
    assert found == {name: pytest.approx(record[name], rel=1e-5) for name in TESTED}
    assert f"test_acc {trained.test_acc:.2%}" in capsys.readouterr().out


def test_the_network_is_the_one_that_the_seed_draws(keras: Any) -> None:
    networks = [keras_reference.build_network(SMALL, {"seed_everything": seed}, num_classes=7) for seed in (1, 1, 2)]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    one, again, other = (network.predict(images, verbose=0) for network in networks)
    assert one.shape == (2, 7)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_features_are_those_of_the_runs_own_layers(trained: RunFolder, tmp_path: Path, keras: Any) -> None:
    settings = {
        **SMALL,
        "model.backbone.weights": trained,
        "model.backbone.layer": "block1_pool",
        "data.cache_dir": tmp_path / "cache",
    }
    features = keras_reference.extract_features(settings, {"model.network.filters": [4] * 9})  # which would not fit
    assert {part: each.features.shape for part, each in features.items()} == {
        "train": (90, 4, 4, 4),
        "val": (10, 4, 4, 4),
        "test": (360, 4, 4, 4),
    }
    model = keras_reference.build_network(SMALL)
    model.load_weights(trained.checkpoint("best"))
    (pool,) = [layer for layer in model.layers if "maxpool" in layer.name]
    images = keras_reference.load_images(SMALL)
    pixels = (images.test.images[:5] - np.float32(images.normalization.mean)) / np.float32(images.normalization.std)
    expected = keras.Model(model.inputs, pool.output).predict(pixels, verbose=0)
    np.testing.assert_allclose(features["test"].features[:5], expected, rtol=1e-4, atol=1e-5)

    flags = [f"--{name}={value.path if name.endswith('weights') else value}" for name, value in settings.items()]
    assert run_command(["features", *flags, f"--output={tmp_path / 'features.npz'}"]) == 0
    with np.load(tmp_path / "features.npz") as arrays:
        np.testing.assert_array_equal(arrays["val"], features["val"].features)
        np.testing.assert_array_equal(arrays["val_labels"], features["val"].labels)


def test_exported_weights_are_those_of_the_run(trained: RunFolder, tmp_path: Path, keras: Any) -> None:
    file = keras_reference.export_weights(trained, tmp_path / "weights.safetensors")
    model = keras_reference.build_network(SMALL, {"model.init_from": file})
    best = keras_reference.build_network(SMALL)
    best.load_weights(trained.checkpoint("best"))
    for ours, theirs in zip(model.weights, best.weights, strict=True):
        if "seed" not in ours.path:
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_reference.fit({"model.network.filter": [1]}), "did you mean 'model.network.filters'"),
        (lambda: keras_reference.fit({"model.compile": True}), "does not implement model.compile"),
        (lambda: keras_reference.evaluate("nowhere"), "nowhere is not a run folder"),
        (lambda: keras_reference.extract_features(SMALL), "name one by model.backbone.weights"),
    ],
)
def test_what_the_user_can_mend(call: Any, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        call()
