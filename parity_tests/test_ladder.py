"""The ladder over the lesson's blocks, random recipes, and the real images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_vgg import cli
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.specs import LIVELY, DataSpec, ExperimentSpec, ModelSpec, NetworkSpec, OptimizerSpec
from lightning_vgg.images.dataset import load_dataset
from parity_tests.distance import distance
from parity_tests.ladder import (
    Gate,
    Ladder,
    Rung,
    SmallBatch,
    evenly,
    failed,
    judged,
    search_small_batch,
    with_controls,
)
from parity_tests.mutants import plain_spec
from parity_tests.pair import Pair, Precision, Tensors
from parity_tests.whole_run import histories

DATA = DataSpec(source="digits", image_size=8, train_images=300, eval_batch_size=64)
pytestmark = pytest.mark.slow
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


def failures(conv_block: str, dense_block: str, precision: Precision, optimizer: str | None) -> list[Rung]:
    """Of the rungs of one batch, and of fifty steps by an optimizer."""
    network = NetworkSpec(conv_block=conv_block, dense_block=dense_block, filters=[4, 6], units=[8])
    ladder = Ladder(experiment(ModelSpec(network=network)), DIGITS)
    rungs = [ladder.specification(), ladder.forward(precision), ladder.loss(precision), ladder.gradients(precision)]
    rungs += [ladder.dropout(), ladder.frozen(precision)]
    rungs += ladder.steps(optimizer, precision) if optimizer else []
    return failed(rungs)


@pytest.mark.parametrize("dense_block", DENSE_BLOCKS)
@pytest.mark.parametrize("conv_block", CONV_BLOCKS)
def test_every_pair_of_blocks_is_at_the_floor(conv_block: str, dense_block: str) -> None:
    # What fifty steps add to one batch and three steps is each block's own: every block takes them in one pair.
    once = CONV_BLOCKS.index(conv_block) % len(DENSE_BLOCKS) == DENSE_BLOCKS.index(dense_block)
    assert failures(conv_block, dense_block, "float64", "nesterov" if once else None) == []


@pytest.mark.parametrize("conv_block", CONV_BLOCKS)
def test_the_blocks_in_float32_are_as_near_as_other_kernels(conv_block: str) -> None:
    assert failures(conv_block, DENSE_BLOCKS[0], "float32", "adam") == []


@pytest.mark.usefixtures("programs_in_this_process")
def test_the_words_of_other_peoples_models_are_at_the_floor() -> None:
    first = "zero padding - conv(valid, linear, no bias, 5 filters, he normal, l2 0.01) - leaky relu(slope 0.3)"
    network = NetworkSpec(
        conv_block=[
            f"{first} - batch norm(epsilon 0.01, no bias) - maxpool(3x3, stride 2, same) - spatial dropout(0.3)",
            "conv(lecun uniform, l2 0.0005) - average pool(3x3, stride 2, same) - conv - global max pool",
        ],
        filters=[4, 6],
        dense_block="dense(7 units, l2 0.003, glorot normal) - dropout",
        units=[8],
        classifier="dense(linear, no bias, l2 0.02)",
    )
    ladder = Ladder(experiment(ModelSpec(network=network)), DIGITS)
    rungs = [ladder.specification(), ladder.initialization(), ladder.dropout(), *ladder.steps("nesterov", "float64")]
    rungs.append(ladder.whole_run())
    precisions: tuple[Precision, ...] = ("float64", "float32")
    for precision in precisions:
        rungs += [ladder.forward(precision), ladder.loss(precision), ladder.gradients(precision)]
    assert failed(rungs) == []


def test_activations_that_only_one_framework_cuts_to_zero_are_counted() -> None:
    network = NetworkSpec(conv_block=CONV_BLOCKS[0], dense_block=DENSE_BLOCKS[0], filters=[4, 6], units=[8])
    ladder = Ladder(experiment(ModelSpec(network=network)), DIGITS)
    pair, (batch,) = ladder.pair("float64"), ladder.batches(1, "float64")
    assert distance(pair.torch.activations(batch), pair.keras.activations(batch)).value < 1e-12
    assert pair.flips(batch) == (0, 0)
    first = next(pair.torch.network.parameters())
    first.data[0].neg_()
    flips, own_flips = pair.flips(batch)
    assert flips > 0 and own_flips == 0


class Amplifier:
    """Stands for a side that measures 1, and by other kernels 1 + ``rounding``."""

    def __init__(self, rounding: float, twins: float = 0.0) -> None:
        self.rounding, self.twins = rounding, twins

    def twin(self) -> Amplifier:
        return Amplifier(self.twins, self.twins)


@pytest.mark.parametrize(("rounding", "limit"), [(2e-13, 2e-12), (1e-14, 1e-12)])
def test_a_gate_in_float64_follows_from_the_controls_where_a_network_amplifies_rounding(
    rounding: float, limit: float
) -> None:
    """Behind a dense layer's batch norm the gradients of a right port were 1.3e-12 apart."""

    def measure(side: Any) -> Tensors:
        return {"weight": np.array([1 + side.rounding])}

    def judge(apart: float) -> Rung:
        pair = cast(Pair, SimpleNamespace(torch=Amplifier(0, rounding), keras=Amplifier(apart), damped=()))
        return judged("gradients", "float64", Gate(1e-12, 1e-5), pair, measure)

    assert judge(0.9e-12).passed and judge(0.9e-12).control is None
    assert judge(0.9 * limit).passed and not judge(1.2 * limit).passed
    assert judge(1.2 * limit).control == pytest.approx(rounding, rel=0.1)


def test_no_more_controls_are_measured_than_it_takes() -> None:
    def rungs(sides: list[float]) -> list[Rung]:
        ours, theirs, *others = sides
        return [Rung("made", "float64", abs(theirs - ours), "", None, max([1.0, *others]))]

    for apart, passed, left in ((0.5, True, [3.0, 9.0, 9.0]), (2.0, True, [9.0, 9.0]), (10.0, False, [])):
        others = iter([3.0, 9.0, 9.0])
        assert with_controls(rungs, [0.0, apart], others)[0].passed == passed
        assert list(others) == left


def test_a_small_batch_is_one_on_which_nothing_flips() -> None:
    assert search_small_batch(lambda size, number: (int(size > 2), int(number < 3))) == SmallBatch(2, 3, 0, 0)


def test_keras_alone_flipping_is_no_rounding_and_both_flipping_is() -> None:
    fault = search_small_batch(lambda size, number: (7, 0))
    assert fault.flips == 7 and not fault.own_flips
    chaos = search_small_batch(lambda size, number: (7, 5))
    assert chaos.own_flips == 5


@pytest.mark.usefixtures("programs_in_this_process")
def test_an_augmented_training_is_the_same_in_both() -> None:
    """Its batches, the loss of mixed labels with smoothing, and an epoch by both command lines."""
    data = replace(DATA, augmentation=replace(LIVELY, shift=1, cutout=2))
    network = NetworkSpec(conv_block="conv - batch norm - maxpool - dropout", filters=[4], units=[6])
    ladder = Ladder(experiment(ModelSpec(network=network, label_smoothing=0.1), data), DIGITS)
    rungs = [ladder.augmentation(), ladder.loss("float64"), ladder.loss("float32"), ladder.whole_run()]
    assert failed(rungs) == []


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


@settings(max_examples=12, deadline=None, derandomize=True)
@given(conv_block=conv_recipes, dense_block=dense_recipes, seed=st.integers(0, 3))
def test_random_recipes_agree(conv_block: str, dense_block: str, seed: int) -> None:
    network = NetworkSpec(conv_block=conv_block, dense_block=dense_block, filters=[3, 5], units=[4])
    ladder = Ladder(experiment(ModelSpec(network=network, label_smoothing=0.1 * seed)), DIGITS)
    assume(not constant_features(ladder))
    rungs = [ladder.specification(), ladder.forward("float64"), ladder.loss("float64"), ladder.gradients("float64")]
    assert failed(rungs) == []


def constant_features(ladder: Ladder) -> bool:
    """Whether a batch norm sees the same value everywhere, behind dead ReLUs, say: then its weight's gradient is 0, and
    what either framework computes of it is rounding alone.
    """
    gradients = ladder.pair("float64").torch.gradients(ladder.batch("float64"))
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    scales = [value for name, value in gradients.items() if "batch_norm" in name and name.endswith("weight")]
    return any(np.abs(scale).max() < 1e-12 * largest for scale in scales)


def test_command_prints_a_table_writes_json_and_fails_with_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # as the command sets it, and taken back afterwards
    Path("tiny.yaml").write_text(
        "model: {network: {filters: [2], units: [4]}}\ndata: {source: digits, image_size: 8, train_images: 100}\n"
    )
    command = "parity -c tiny.yaml --json found.json".split()

    def figures() -> PlainDict:
        return json.loads(Path("found.json").read_text())

    assert cli.run(command) == 0
    output = capsys.readouterr().out
    assert figures()["passed"] and all(rung["passed"] for rung in figures()["rungs"])
    assert len(figures()["rungs"]) >= 42
    assert {rung["name"] for rung in figures()["reported"]} >= {"adam, 50 steps", "sgd, 50 steps"}
    for rung in figures()["rungs"] + figures()["reported"]:
        assert rung["name"].split()[0].rstrip(",") in output
    # Semantics that the ladder must not let pass, and the first rungs, of which two show it.
    command += ["--model.semantics_except", "[batch_norm_epsilon]"]
    monkeypatch.setattr(Ladder, "rungs", lambda self: iter([self.specification(), self.forward("float64")]))
    with pytest.raises(SystemExit) as exit_status:
        cli.run(command)
    assert exit_status.value.code == 1
    assert "FAILED" in capsys.readouterr().out
    assert [rung["passed"] for rung in figures()["rungs"]] == [True, False] and not figures()["passed"]
    assert cli.run([*command, "--ablate"]) == 0
    assert len(figures()["ablation"]) == 11


@pytest.mark.thorough  # make test has an epoch of digits, and twins
def test_one_epoch_of_2000_real_images_gives_the_same_history_by_both_command_lines(test_data: Path) -> None:
    data = DataSpec(
        source="folder",
        root=str(test_data / "data" / "cifar10-jpeg.tar.xz"),
        batch_size=100,
        train_images=2000,
        validation_fraction=0.1,
    )
    spec = replace(plain_spec(), optimizer=OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9))
    dataset = load_dataset(replace(data, validation_fraction=0.0))
    found = distance(*histories(experiment(spec, data), replace(dataset, test=evenly(dataset.test, 1000))))
    assert found.value < 1e-10, found
