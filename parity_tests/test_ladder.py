"""The ladder over the lesson's blocks, recipes drawn by chance, and the real images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec, ModelSpec, NetworkSpec, OptimizerSpec
from lightning_vgg.images.dataset import load_dataset
from parity_tests.distance import distance
from parity_tests.ladder import Ladder
from parity_tests.mutants import plain_spec
from parity_tests.whole_run import histories

DATA = DataSpec(source="digits", image_size=8, train_images=300, eval_batch_size=64)
CONV_BLOCKS = [
    "conv - batch norm - conv - maxpool - dropout",
    "batch norm - conv - batch norm - conv - maxpool - dropout",
    "conv - batch norm - conv - batch norm - maxpool",
    "conv - dropout - conv - dropout - maxpool",
    "conv(2x2, valid, linear, no bias) - batch norm(momentum 0.6, no scale) - gelu",
]
DENSE_BLOCKS = ["dense - dropout", "dense - batch norm", "dense - batch norm - dropout"]


DIGITS = load_dataset(DATA)


def experiment(model: ModelSpec, data: DataSpec = DATA) -> ExperimentSpec:
    return ExperimentSpec(model=model, data=data)


def failures(ladder: Ladder, precision: str, optimizers: tuple[str, ...]) -> list:
    rungs = [ladder.specification(), ladder.forward(precision), ladder.loss(precision), ladder.gradients(precision)]
    rungs += [ladder.dropout(precision), ladder.frozen(precision)]
    for name in optimizers:
        rungs += ladder.steps(name, precision)
    return [rung for rung in rungs if not rung.passed]


@pytest.mark.parametrize("dense_block", DENSE_BLOCKS)
@pytest.mark.parametrize("conv_block", CONV_BLOCKS)
def test_every_pair_of_blocks_is_at_the_floor(conv_block: str, dense_block: str) -> None:
    network = NetworkSpec(conv_block=conv_block, dense_block=dense_block, filters=[4, 6], units=[8])
    assert failures(Ladder(experiment(ModelSpec(network=network)), DIGITS), "float64", ("nesterov",)) == []


@pytest.mark.parametrize("conv_block", CONV_BLOCKS)
def test_the_blocks_in_float32_are_as_near_as_one_ulp(conv_block: str) -> None:
    network = NetworkSpec(conv_block=conv_block, filters=[4, 6], units=[8])
    assert failures(Ladder(experiment(ModelSpec(network=network)), DIGITS), "float32", ("adam",)) == []


ACTIVATIONS = ["relu", "leaky relu", "elu", "gelu", "silu", "tanh", "sigmoid", "linear"]
convs = st.builds(
    "conv({0}x{0}, {1}, stride {2})".format,
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([1, 2]),
)
others = st.sampled_from(
    ["batch norm", "dropout", "dropout(0.5)", *ACTIVATIONS, "average pool(2, stride 1)", "maxpool(1)"]
)
conv_recipes = st.lists(convs | others, min_size=1, max_size=5).map(" - ".join)
dense_recipes = st.lists(
    st.builds("dense({})".format, st.sampled_from(ACTIVATIONS)) | st.sampled_from(["batch norm", "dropout", "tanh"]),
    min_size=1,
    max_size=4,
).map(" - ".join)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(conv_block=conv_recipes, dense_block=dense_recipes, seed=st.integers(0, 3))
def test_recipes_drawn_by_chance_agree(conv_block: str, dense_block: str, seed: int) -> None:
    network = NetworkSpec(conv_block=conv_block, dense_block=dense_block, filters=[3, 5], units=[4])
    ladder = Ladder(experiment(ModelSpec(network=network, label_smoothing=0.1 * seed)), DIGITS)
    rungs = [ladder.specification(), ladder.forward("float64"), ladder.loss("float64"), ladder.gradients("float64")]
    assert [rung for rung in rungs if not rung.passed] == []


def test_command_prints_a_table_writes_json_and_fails_with_the_ladder(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "model: {network: {filters: [2], units: [4]}}\ndata: {source: digits, image_size: 8, train_images: 100}\n"
    )
    command = [Path(sys.executable).parent / "lightning-vgg", "parity", "-c", config, "--json", tmp_path / "found.json"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=tmp_path, check=False)
    figures = json.loads((tmp_path / "found.json").read_text())
    assert result.returncode == 0, result.stdout
    assert figures["passed"] and all(rung["passed"] for rung in figures["rungs"])
    assert len(figures["rungs"]) >= 50
    for rung in figures["rungs"]:
        assert rung["name"].split()[0].rstrip(",") in result.stdout
    # Semantics that the ladder must not let pass.
    command += ["--model.semantics_except", "[batch_norm_epsilon]"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=tmp_path, check=False)
    assert "FAILED" in result.stdout and result.returncode == 1
    result = subprocess.run([*command, "--ablate"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "found.json").read_text())["ablation"]) == 11


@pytest.mark.slow
def test_one_epoch_of_2000_real_images_gives_the_same_history_by_both_command_lines(test_data: Path) -> None:
    data = DataSpec(
        source="folder",
        root=str(test_data / "data" / "cifar10-jpeg.tar.xz"),
        batch_size=100,
        train_images=2000,
        validation_fraction=0.1,
    )
    spec = replace(plain_spec(), optimizer=OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9))
    found = distance(*histories(experiment(spec, data), load_dataset(replace(data, validation_fraction=0.0))))
    assert found.value < 1e-10, found
