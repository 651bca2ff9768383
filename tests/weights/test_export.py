"""A run's network as a file, checked against what the run computes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command

import keras_reference
import lightning_vgg
from lightning_vgg import ExperimentError, RunFolder
from lightning_vgg.weights.export_arguments import SUFFIXES
from lightning_vgg.weights.verified_export import write_verified

pytestmark = pytest.mark.slow

SMALL = {
    "data.source": "digits",
    "data.image_size": 16,
    "data.train_images": 200,
    "data.batch_size": 50,
    "model.network.conv_block": "conv(gelu) - batch norm - dropout(0.2) - conv(leaky relu) - maxpool - "
    "spatial dropout(0.1)",
    "model.network.filters": [8, 12],
    "model.network.units": [10],
    "trainer.max_epochs": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def by_lightning(folder: Path) -> RunFolder:
    """By torch's semantics, whose epsilon of batch norm is another one than Keras's."""
    settings = {"trainer.default_root_dir": folder, "trainer.logger": False, "model.semantics": "torch"}
    return lightning_vgg.fit(SMALL, settings)


@pytest.fixture(scope="module")
def by_keras(folder: Path) -> RunFolder:
    return keras_reference.fit(SMALL, {"trainer.default_root_dir": folder, "name": "keras"})


@pytest.fixture(scope="module")
def on_backbone(folder: Path, by_lightning: RunFolder) -> RunFolder:
    """Resized, pooled, and with a scale of the logits."""
    lightning_vgg.export_weights(by_lightning)
    backbone = {"weights": by_lightning.path, "layer": "block1_pool", "image_size": 24, "pooling": "average"}
    return lightning_vgg.fit(
        SMALL,
        {f"model.backbone.{name}": value for name, value in backbone.items()},
        {"model.network.filters": [], "trainer.default_root_dir": folder, "trainer.logger": False, "name": "backbone"},
    )


def images_of(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Seven test images as they are, and normalized as the run has it."""
    images = lightning_vgg.load_images({name: value for name, value in SMALL.items() if name.startswith("data.")})
    pixels, recorded = images.test.images[:7], run.read_record()["normalization"]
    return pixels, ((pixels - np.float32(recorded["mean"])) / np.float32(recorded["std"])).astype(np.float32)


def classify_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path)).run(None, {"images": images})[0]


def classify_exported(path: Path, images: np.ndarray) -> np.ndarray:
    return torch.export.load(path).module()(torch.from_numpy(images)).detach().numpy()


def classify_keras(path: Path, images: np.ndarray) -> np.ndarray:
    """In a process that knows Keras alone."""
    arrays = path.with_suffix(".npy")
    np.save(arrays, images)
    code = (
        "import sys, numpy as np, keras\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        f"np.save({str(arrays)!r}, model.predict(np.load({str(arrays)!r}), verbose=0))\n"
        "assert not {'lightning_vgg', 'keras_reference', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/", capture_output=True)
    return np.load(arrays)


READERS: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {
    "onnx": classify_onnx,
    "torch-export": classify_exported,
    "keras": classify_keras,
}


CASES = {
    # Each format, each framework, and both ways across.
    ("by_lightning", "keras"),
    ("by_keras", "onnx"),
    ("on_backbone", "torch-export"),
}


@pytest.mark.parametrize(
    ("trained", "format"),
    [
        pytest.param(trained, format, marks=() if (trained, format) in CASES else pytest.mark.thorough)
        for trained in ("by_lightning", "by_keras", "on_backbone")
        for format in READERS
    ],
)
def test_the_file_classifies_as_the_run_does(
    trained: str, format: str, request: pytest.FixtureRequest, tmp_path: Path, keras: Any
) -> None:
    run: RunFolder = request.getfixturevalue(trained)
    package: Any = keras_reference if trained == "by_keras" else lightning_vgg
    pixels, normalized = images_of(run)
    _, logits = run.read_predictions()  # of the run's own test, of the same images
    expected = np.asarray(torch.from_numpy(logits[:7]).softmax(1))
    path = package.export_weights(run, tmp_path / f"model{SUFFIXES[format]}", with_preprocessing=True)
    np.testing.assert_allclose(READERS[format](path, pixels), expected, atol=1e-5)
    path = package.export_weights(run, tmp_path / f"logits{SUFFIXES[format]}")
    inputs = normalized if format == "keras" else np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(READERS[format](path, inputs), logits[:7], atol=1e-4)
    assert sorted(path.name for path in tmp_path.glob("*.*") if path.suffix != ".npy") == sorted(
        [f"model{SUFFIXES[format]}", f"logits{SUFFIXES[format]}"]
    )


def test_the_name_of_the_file_implies_its_format(by_lightning: RunFolder, tmp_path: Path, command: Command) -> None:
    command(f"export {by_lightning.path} --output {tmp_path / 'digits.onnx'} --with-preprocessing")
    assert classify_onnx(tmp_path / "digits.onnx", images_of(by_lightning)[0]).sum(1) == pytest.approx(1)
    written = command(f"export {by_lightning.path} --format torch-export").stdout.strip()
    assert written == str(by_lightning.path / "model.pt2") and Path(written).is_file()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--output model.onnx --format keras", "model.onnx is the name of a file of onnx, but --format is keras"),
        ("--output model.pb", "name a file that ends in .safetensors (safetensors), .onnx (onnx), .pt2 (torch-export)"),
        ("--format tflite", "--format tflite: known are safetensors, onnx, torch-export, keras"),
        ("--with-preprocessing", "a safetensors file holds weights alone"),
    ],
)
def test_what_contradicts_itself_is_refused(flags: str, says: str, by_lightning: RunFolder, command: Command) -> None:
    before = sorted(by_lightning.path.iterdir())
    assert says in command(f"export {by_lightning.path} {flags}", status=2).stderr
    assert sorted(by_lightning.path.iterdir()) == before


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("what was there")

    def right(images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2))

    def for_three_images_alone(images: np.ndarray) -> np.ndarray:
        return right(images) if len(images) == 3 else right(images)[:3]

    for wrong in (for_three_images_alone, lambda images: right(images) * 1.001, lambda images: right(images) * np.nan):
        with pytest.raises(ExperimentError, match="was not written"):
            write_verified(path, (8, 8, 3), right, lambda file: file.touch(), lambda file, wrong=wrong: wrong)
        assert path.read_text() == "what was there" and [*tmp_path.iterdir()] == [path]


def test_what_keras_has_no_layer_for_is_refused(folder: Path, tmp_path: Path) -> None:
    settings = {"trainer.default_root_dir": folder, "trainer.logger": False, "model.tricks.logit_scale": 0.5}
    run = lightning_vgg.fit(SMALL, settings, {"name": "scaled"})
    with pytest.raises(ExperimentError, match=r"does not implement model\.tricks\.logit_scale"):
        lightning_vgg.export_weights(run, tmp_path / "model.keras")
    path = lightning_vgg.export_weights(run, tmp_path / "model.onnx")
    normalized = images_of(run)[1].transpose(0, 3, 1, 2)
    _, logits = run.read_predictions()
    np.testing.assert_allclose(classify_onnx(path, np.ascontiguousarray(normalized)), logits[:7], atol=1e-4)
