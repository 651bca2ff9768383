"""Transfer learning by both frameworks: small backbones of this project's own runs, and VGG16 with its real weights."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_vgg import cli
from lightning_vgg.experiment.specs import (
    AugmentationSpec,
    BackboneSpec,
    DataSpec,
    ExperimentSpec,
    ModelSpec,
    NetworkSpec,
    OptimizerSpec,
    ScheduleSpec,
)
from lightning_vgg.images.dataset import load_dataset
from parity_tests import transfer_ladder
from parity_tests.distance import distance
from parity_tests.ladder import Report, Rung, failed
from parity_tests.transfer_ladder import TransferLadder
from parity_tests.whole_run import histories

DATA = DataSpec(source="digits", image_size=16, train_images=200, batch_size=32, eval_batch_size=64)
HEAD = NetworkSpec(conv_block="batch norm", filters=[6], units=[8], dense_block="dense - dropout")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Lightning's with batch norm and its neutral weights, which Keras reads."""
    folder = tmp_path_factory.mktemp("source")
    fit = """
        fit --data.source digits --data.image_size 16 --data.train_images 200
        --model.network.filters [4,6,6] --model.network.units [] --trainer.max_epochs 2
        --model.network.conv_block 'conv - batch norm - conv - maxpool' --trainer.logger false
        --name source
    """
    with contextlib.chdir(folder):
        assert [cli.run(shlex.split(line)) for line in (fit, "export runs/vgg/source")] == [0, 0]
    return folder / "runs" / "vgg" / "source"


def experiment_on(source: Path, **settings: object) -> ExperimentSpec:
    backbone = BackboneSpec(weights=str(source), **{"layer": "block3_pool", "image_size": 24, **settings})  # type: ignore[arg-type]
    model = ModelSpec(network=HEAD, backbone=backbone, optimizer=OptimizerSpec(learning_rate=0.01))
    return ExperimentSpec(model=model, data=DATA)


def failures(rungs: list[Report]) -> list[Rung]:
    assert rungs
    return failed(rungs)


@pytest.mark.parametrize("pooling", ["flatten", "average", pytest.param("max", marks=pytest.mark.thorough)])
def test_a_run_as_backbone_agrees_in_float64(pooling: str, source: Path) -> None:
    ladder = TransferLadder(experiment_on(source, pooling=pooling), load_dataset(DATA))
    rungs = [ladder.specification(), ladder.preprocessing(), ladder.augmentation(), ladder.resize("float64")]
    rungs += [*ladder.embeddings("float64"), *ladder.fine_tuning("float64"), *ladder.head_training("float64")]
    assert failures(rungs) == []
    assert [rung.name for rung in rungs if rung.name.startswith("embeddings")] == [
        "embeddings, block1",
        "embeddings, block2",
        "embeddings, block3",
        "embeddings, pooled",
    ]


@pytest.mark.usefixtures("programs_in_this_process")
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=pytest.mark.thorough), "sgd"])
def test_gradual_unfreezing_at_rates_by_block_agrees_from_beginning_to_end(optimizer: str, source: Path) -> None:
    """Both command lines, four epochs, from kept features to everything above block 1."""
    experiment = experiment_on(
        source, freeze_until="all", unfreeze={1: "block2_pool", 3: "block1_pool"}, rate_factor=0.5, layer_decay=0.5
    )
    model = replace(
        experiment.model,
        optimizer=OptimizerSpec(name=optimizer, learning_rate=0.01, momentum=0.75 if optimizer == "sgd" else 0.0),  # type: ignore[arg-type]
        schedule=ScheduleSpec("cosine", warmup=0.2),
    )
    found = distance(*histories(replace(experiment, model=model), load_dataset(DATA), epochs=4))
    assert found.value < 1e-10, found


@pytest.mark.usefixtures("programs_in_this_process")
@pytest.mark.slow
def test_with_augmentation_both_run_the_frozen_layers_in_every_epoch(source: Path) -> None:
    data = replace(DATA, augmentation=AugmentationSpec(flip=True, shift=2, cutout=4))
    experiment = replace(experiment_on(source, freeze_until="block2_pool"), data=data)
    found = distance(*histories(experiment, load_dataset(data), epochs=2))
    assert found.value < 1e-10, found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_real_weights_give_the_same_embeddings_of_real_images(
    precision: str, test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_ladder, "EMBEDDED", 64)  # a quarter of what the command takes
    data = DataSpec(source="folder", root=str(test_data / "data" / "cifar10-jpeg.tar.xz"), train_images=300)
    weights = str(test_data / "weights" / "vgg16_imagenet_caffe_features.safetensors")
    spec = ModelSpec(network=HEAD, backbone=BackboneSpec(weights=weights, preprocessing="keras_caffe"))
    ladder = TransferLadder(ExperimentSpec(model=spec, data=data), load_dataset(data))
    rungs = [*ladder.embeddings(precision)]  # type: ignore[arg-type]
    assert failures(rungs) == []
    assert len(rungs) == 6
    # In float32 a rung's limit comes from other kernels, which differ more than the frameworks do.
    assert all(rung.measured <= (1e-13 if precision == "float64" else 1e-5) for rung in rungs)
    if precision == "float64":
        assert failures([ladder.preprocessing(), *ladder.fine_tuning(precision)]) == []
