"""Transfer learning in the Keras reference by itself: weights, features that are kept, freezing, rates by block."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_here
from test_keras_reference import record_of

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import BackboneSpec, DataSpec, OptimizerSpec
from lightning_vgg.images.dataset import Split, load_dataset
from lightning_vgg.runs.folder import RunFolder

FIT = """
    fit --data.source digits --data.image_size 16 --data.train_images 100 --data.batch_size 32
    --trainer.logger false --data.cache_dir cache --model.network.units []
"""
ON_A_BACKBONE = f"""
    {FIT} --model.network.filters [] --model.backbone.weights source --model.backbone.layer block2_pool
    --trainer.max_epochs 3
"""


def keras_reference(folder: Path, line: str) -> str:
    """Run the command in a folder, in this process; returns what it printed."""
    return run_here(folder, "keras-reference")(line).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of Keras's, two blocks with batch norm and dropout, copied to ``source``."""
    folder = tmp_path_factory.mktemp("keras-transfer")
    keras_reference(folder, f"{FIT} --model.network.filters [4,6] --trainer.max_epochs 1 --name source")
    shutil.copytree(folder / "runs" / "vgg" / "source", folder / "source")
    return folder


@pytest.fixture(scope="module")
def gradual(folder: Path) -> tuple[Path, str]:
    """A run whose backbone is unfrozen block by block, and what it printed."""
    unfreeze = "--model.backbone.unfreeze '{1: block1_pool, 2: none}' --model.backbone.rate_factor 0.5"
    output = keras_reference(folder, f"{ON_A_BACKBONE} {unfreeze} --name gradual --data.validation_fraction 0")
    return folder / "runs" / "vgg" / "gradual", output


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_what_trains_is_said_and_recorded(gradual: tuple[Path, str]) -> None:
    run, output = gradual
    lines = [line for line in output.splitlines() if "trainable" in line]
    # conv 3·4·9 + 4, norm 8, conv 4·4·9 + 4; conv 4·6·9 + 6, norm 12, conv 6·6·9 + 6; classifier 4·4·6·10 + 10
    blocks, head = (112 + 8 + 148, 222 + 12 + 330), 970
    assert lines == [
        f"epoch   1/3  trainable parameters {head}  frozen {sum(blocks)} (up to block2_pool)",
        f"epoch   2/3  trainable parameters {head + blocks[1]:,}  frozen {blocks[0]} (up to block1_pool)",
        f"epoch   3/3  trainable parameters {head + sum(blocks):,}  frozen 0 (none)",
    ]
    record = record_of(run)
    counts = record["parameters"], record["trainable_parameters"], record["frozen_parameters"]
    assert counts == (head + sum(blocks), head, sum(blocks))
    assert record["backbone"]["weights"].endswith("/source") and record["backbone"]["layer"] == "block2_pool"
    assert [row["epoch"] for row in RunFolder(run).read_history()] == [1, 2, 3]


def test_test_and_export_need_no_source_and_lightning_starts_from_the_export(
    gradual: tuple[Path, str], folder: Path, tmp_path: Path
) -> None:
    run, _ = gradual
    shutil.copytree(run, tmp_path / "run")
    before = record_of(run)
    keras_reference(tmp_path, "test -c run/config.yaml")
    assert record_of(tmp_path / "run") | {"checkpoint": 0} == before | {"checkpoint": 0}
    keras_reference(tmp_path, "export run")
    shutil.copytree(folder / "source", tmp_path / "source")
    keras_reference(tmp_path, "export source")
    # One step at a rate that moves nothing: what is tested is what was exported.
    run_here(tmp_path)(f"""
        {ON_A_BACKBONE} --model.init_from run/weights.safetensors --trainer.max_epochs 1
        --model.optimizer.learning_rate 1e-20 --name again --data.validation_fraction 0
    """)
    again = record_of(tmp_path / "runs" / "vgg" / "again")
    assert again["test_loss"] == pytest.approx(before["test_loss"], rel=1e-5)
    assert again["normalization"] == before["normalization"]


def test_a_second_run_computes_no_features_again(folder: Path) -> None:
    def kept() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in folder.glob("cache/features-*/features.npy")}

    fit = f"{ON_A_BACKBONE} --model.backbone.pooling average --data.validation_fraction 0.2"
    keras_reference(folder, f"{fit} --name one")
    written = kept()
    keras_reference(folder, f"{fit} --name two --model.network.units [5]")
    assert kept() == written and len(written) >= 3
    counts = [record_of(folder / "runs" / "vgg" / name)["trainable_parameters"] for name in ("one", "two")]
    assert counts == [6 * 10 + 10, 6 * 5 + 5 + 5 * 10 + 10]  # another head on the same features


def test_with_augmentation_it_says_that_no_features_are_kept(folder: Path) -> None:
    said = keras_reference(folder, f"{ON_A_BACKBONE} --data.augmentation.flip true --trainer.max_epochs 1")
    assert "the 9 frozen layers run in every epoch" in said


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("IMAGENET1K_V1", "Keras has no IMAGENET1K_V1"),
        ("w.pth", "safetensors.torch.save_file"),
        ("torch_run", "was trained by lightning: write its weights as a file first: lightning-vgg export"),
    ],
)
def test_weights_that_keras_cannot_read(weights: str, message: str, folder: Path, tmp_path: Path, keras: Any) -> None:
    from keras_reference.pretrained import load_pretrained

    (tmp_path / "w.pth").write_bytes(b"")
    shutil.copytree(folder / "source", tmp_path / "torch_run")
    RunFolder(tmp_path / "torch_run").update_record(framework="lightning")
    path = tmp_path / weights
    preprocessing: Any = "keras_caffe" if path.is_file() else None
    spec = BackboneSpec(str(path) if path.exists() else weights, preprocessing, layer="block1_pool")
    with pytest.raises(ExperimentError, match=message):
        load_pretrained(spec, 16)


def test_a_run_with_torchs_semantics_is_refused(folder: Path, tmp_path: Path, keras: Any) -> None:
    from keras_reference.pretrained import load_pretrained

    shutil.copytree(folder / "source", tmp_path / "source")
    config = tmp_path / "source" / "config.yaml"
    config.write_text(config.read_text().replace("semantics: keras", "semantics: torch"))
    with pytest.raises(ExperimentError, match="torch's semantics"):
        load_pretrained(BackboneSpec(str(tmp_path / "source"), layer="block1_pool"), 16)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that a local server serves, and its address."""
    (tmp_path / "served").mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_imagenet_is_fetched_verified_and_read_as_bgr(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keras: Any
) -> None:
    from keras_reference import pretrained as backbone
    from keras_reference.transfer import Backbone

    folder, url = served
    (tmp_path / "home").mkdir()
    vgg16 = keras.applications.VGG16(include_top=False, weights=None)
    vgg16.save_weights(folder / "original.weights.h5")
    contents = (folder / "original.weights.h5").read_bytes()
    monkeypatch.setattr(backbone, "IMAGENET_FILE", "original.weights.h5")
    monkeypatch.setattr(backbone, "IMAGENET_URL", f"{url}/original.weights.h5")
    monkeypatch.setattr(backbone, "IMAGENET_MD5", hashlib.md5(contents).hexdigest())
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "home"))
    spec = BackboneSpec("IMAGENET1K_FEATURES", layer="block1_conv1")
    pretrained = backbone.load_pretrained(spec, 32)
    assert pretrained.description["preprocessing"] == "keras_caffe"
    assert (tmp_path / "home" / "models" / "original.weights.h5").read_bytes() == contents
    # Kernels are in RGB between the frameworks, and in BGR again in the network.
    kernel = np.asarray(vgg16.get_layer("block1_conv1").kernel)
    np.testing.assert_array_equal(pretrained.tensors["block1_conv1.weight"], kernel[:, :, ::-1].transpose(3, 2, 0, 1))
    built = Backbone(pretrained, 32)
    np.testing.assert_array_equal(np.asarray(built.layers[0].kernel), kernel)
    shutil.rmtree(tmp_path / "home" / "models")
    monkeypatch.setattr(backbone, "IMAGENET_MD5", "0" * 32)
    with pytest.raises(ExperimentError, match=r"cannot be downloaded .* Fetch http://.*into ~/\.keras/models"):
        backbone.load_pretrained(spec, 32)


@pytest.mark.parametrize(("size", "new_size"), [(32, 224), (32, 48), (32, 21), (8, 3), (1, 4), (5, 1)])
def test_interpolation_matrix_is_numpys_interpolation_between_the_centres(size: int, new_size: int) -> None:
    from keras_reference.transfer import interpolation_matrix

    values = np.random.default_rng(0).normal(size=size)
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    expected = np.interp(centres, np.arange(size), values)
    np.testing.assert_allclose(interpolation_matrix(size, new_size) @ values, expected, rtol=1e-13)


# --- freezing and rates -----------------------------------------------------------------------------------------------


def images(keras: Any, count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 16, 16, 3)).astype(keras.config.floatx())


def build(source: Path, **settings: Any) -> Any:
    """The network on the run as a backbone, four classes."""
    from keras_reference.pretrained import load_pretrained
    from keras_reference.transfer import Network
    from lightning_vgg.experiment.backbone_plan import plan_model
    from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec, NetworkSpec

    spec = ModelSpec(
        NetworkSpec(filters=[], units=[]), BackboneSpec(str(source), **{"layer": "block2_pool", **settings})
    )
    pretrained = load_pretrained(spec.backbone, 16)
    return Network(plan_model(ExperimentSpec(model=spec), 4, pretrained.plan), pretrained, 16)


def test_frozen_layers_stay_and_put_out_the_same_in_training_mode(folder: Path, keras: Any) -> None:
    from keras_reference.weights import network_tensors

    network = build(folder / "source")
    half = 5  # into the second block: convolution, and batch norm above it
    model = network.model(half)
    before = network_tensors(network.tensors())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(keras), np.arange(8) % 4, epochs=2, verbose=0)
    frozen = {f"backbone.{layer.name}" for layer in network.backbone.plan.layers[:half]}
    for name, value in network_tensors(network.tensors()).items():
        assert np.array_equal(value, before[name]) == (name.rpartition(".")[0] in frozen), name
    lower = network.backbone.extractor(half)
    assert any(isinstance(layer, keras.layers.Dropout) for layer in network.backbone.layers[:half])
    np.testing.assert_array_equal(lower(images(keras), training=True), lower(images(keras), training=False))


def test_features_and_the_rest_are_the_whole(folder: Path, keras: Any, tmp_path: Path) -> None:
    from keras_reference.features import kept_features

    network = build(folder / "source", image_size=20)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    part = Split(pixels, np.arange(7) % 4)
    dataset = replace(load_dataset(DataSpec(source="digits", image_size=16)), test=part)
    normal = dataset.normalization
    logits = network.model()(network.preprocess(normal)(pixels), training=False)
    for fed in (2, 5, len(network.backbone.layers)):
        data = DataSpec(cache_dir=str(tmp_path))
        features = kept_features("32-true", network.backbone, fed, data, dataset, "test")
        rest = network.model(fed, fed)
        np.testing.assert_allclose(rest(features, training=False), logits, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_group_that_joins_later_moves_as_if_it_started_then(name: Any, keras: Any) -> None:
    """Against an optimizer of its own in a training of its own, which starts with the later rates."""
    from keras_reference.backend import prepare_keras
    from keras_reference.optim import GroupedOptimizer, ParameterGroup, build_optimizer

    prepare_keras("64-true", seed=0)
    spec = OptimizerSpec(name, momentum=0.5 if name == "sgd" else 0.0, weight_decay=0.1)
    rates, gradients = np.array([0.1, 0.3, 0.2, 0.05]), np.random.default_rng(0).normal(size=(4, 2, 3))
    early, late, alone = (keras.Variable(np.ones(3), name=which) for which in ("early", "late", "alone"))
    grouped = GroupedOptimizer(spec, rates, None, [ParameterGroup([early]), ParameterGroup([late], 0.5, start=2)])
    single = build_optimizer(spec, rates[2:] * 0.5, None, [alone])
    for step in range(4):
        variables = [early] if step < 2 else [early, late]
        grouped.apply(
            [keras.ops.convert_to_tensor(gradient) for gradient in gradients[step]][: len(variables)], variables
        )
        if step >= 2:
            single.apply([keras.ops.convert_to_tensor(gradients[step, 1])], [alone])
    np.testing.assert_array_equal(np.asarray(late), np.asarray(alone))
    assert not np.array_equal(np.asarray(late), np.asarray(early))
    assert int(grouped.iterations) == 4


def test_all_groups_are_clipped_together(keras: Any) -> None:
    from keras_reference.optim import GroupedOptimizer, ParameterGroup

    first, second = (keras.Variable(np.zeros(1), name=name) for name in ("first", "second"))
    spec = OptimizerSpec("sgd", learning_rate=1.0)
    optimizer = GroupedOptimizer(spec, np.ones(1), 1.0, [ParameterGroup([first]), ParameterGroup([second])])
    optimizer.apply([keras.ops.convert_to_tensor([3.0]), keras.ops.convert_to_tensor([4.0])], [first, second])
    np.testing.assert_allclose([float(first[0]), float(second[0])], [-0.6, -0.8], rtol=1e-6)
