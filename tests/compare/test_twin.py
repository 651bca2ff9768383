"""Twins: both frameworks really train, one of them wrongly, are killed and go on; and the answer by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BIN, Command, run_here, run_in

from lightning_vgg.compare.twin import compare_twins
from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec, NetworkSpec
from lightning_vgg.report.words import twin_lines, twin_verdict
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.weight_trace import SAMPLED, WeightTrace, read_trace

TINY = """
model: {network: {filters: [4, 6], units: [8]}}
data: {source: digits, image_size: 8, train_images: 300, batch_size: 64, augmentation: {flip: true, shift: 1}}
trainer: {max_epochs: 3}
"""


def answer(folder: Path, name: str = "tiny") -> dict[str, Any]:
    return json.loads((folder / f"runs/vgg/twin-{name}/twin.json").read_text())


@pytest.mark.slow
def test_both_command_lines_train_the_same_network_though_a_signal_stops_them(tmp_path: Path) -> None:
    """With dropout, batch norm, augmentation and Adam; stopped as soon as both have an epoch, or have ended."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = [str(BIN / "lightning-vgg"), "twin", "-c", "tiny.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    runs = [RunFolder(tmp_path / f"runs/vgg/twin-tiny_{framework}") for framework in ("lightning", "keras")]
    while not all(run.read_history() for run in runs):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "stopped; the same command continues runs/vgg/twin-tiny\n")
    result = run_in(tmp_path)("twin -c tiny.yaml")
    found = answer(tmp_path)
    assert result.stdout.count("The same training: both frameworks make the same prediction for every one of 360 ") == 1
    assert (found["identical"], found["images"], found["same_predictions"]) == (True, 360, 360)
    assert (found["epochs"], found["steps"], found["parted"]) == (3, 15, None)
    assert max(found["losses"].values()) < 1e-13 and found["losses"].keys() == {"train_loss", "val_loss"}
    assert 0 < found["weights"]["distance"] < 1e-10
    report = (tmp_path / "runs/vgg/twin-tiny/report.md").read_text()
    assert "The same training" in report and "ndecided" not in report
    other = run_here(tmp_path)("twin -c tiny.yaml --model.network.dropout 0.5", status=2).stderr
    assert "is the twin of another experiment (model.network.dropout changed)" in other


@pytest.mark.thorough
def test_one_wrong_default_parts_them_in_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    # So little, in one epoch, that all predictions stay the same.
    flags = "--trainer.max_epochs 1 --model.semantics_except [batch_norm_variance]"
    result = run_in(tmp_path)(f"twin -c tiny.yaml {flags}", status=1)
    parted = answer(tmp_path)["parted"]
    assert parted["step"] == 1 and parted["tensor"].endswith("running_var")
    assert "Not the same training, although" in result.stdout and "They part in step 1, where" in result.stdout


def test_what_keras_does_not_implement_is_refused_by_name(command: Command, tmp_path: Path) -> None:
    error = command("twin -c vgg/fast.yaml", status=2).stderr
    assert "the Keras reference does not implement model.tricks.whitening" in error
    error = command("twin -c quickstart.yaml --model.init_from ~/no.safetensors", status=2).stderr
    assert "model.init_from: there is no file ~/no.safetensors" in error
    assert list(tmp_path.iterdir()) == []


def made(folder: Path, weights: list[np.ndarray], logits: np.ndarray) -> RunFolder:
    """A run folder with a trace of one tensor (and an idle bias that changes at random) and one epoch."""
    run = RunFolder(folder)
    run.checkpoints.mkdir(parents=True)
    trace, noise = WeightTrace(), np.random.default_rng(len(folder.name))
    tensors: dict[str, np.ndarray] = {}
    for tensor in weights:
        tensors = {"block1.conv1.weight": tensor, "block1.conv1.bias": noise.random(3)}
        trace.add(tensors)
    trace.write(run, last=tensors)
    run.write_history({"epoch": 1, "step": len(weights), "train_loss": 2.0, "seconds": 1.0})
    run.write_predictions(np.zeros(len(logits), int), logits)
    return run


def test_rounding_that_a_training_amplifies_is_told_from_a_fault(tmp_path: Path) -> None:
    """The distance doubles in every step, as it did when block 5 of VGG16 was fine-tuned with Adam."""
    experiment = ExperimentSpec(model=ModelSpec(network=NetworkSpec("conv(linear) - batch norm - relu", [3], units=[])))
    start = np.linspace(-1, 1, 27).reshape(3, 1, 3, 3)
    logits = np.eye(3, dtype=np.float32)
    for name, moves, verdict, says in (
        ("amplified", 4e-13 * 2.0 ** np.arange(20), "undecided", "a factor of 2 a step. In the end"),
        ("flipped", [1e-13] * 15 + [1e-6] * 5, "different", "after 1.0e−13 in the step before"),
        ("faulty", [1e-6] * 20, "different", "far more than rounding. lightning-vgg parity --locate"),
    ):
        runs = {
            "lightning": made(tmp_path / name / "lightning", [start] * 20, logits),
            "keras": made(tmp_path / name / "keras", [start + move for move in moves], logits[[0, 1, 1]]),
        }
        found = compare_twins(experiment, runs)
        assert not found["identical"] and twin_verdict(found) == verdict
        assert says in " ".join(twin_lines(found))


def test_the_answer_by_hand(tmp_path: Path) -> None:
    """The weights part in the third step, and one of three predictions differs."""
    model = ModelSpec(network=NetworkSpec("conv(linear) - batch norm - relu", [3], units=[]))
    start = np.linspace(-1, 1, 27).reshape(3, 1, 3, 3)
    moves = [1e-15, 1e-15, 1e-6, 1e-3]
    logits = np.eye(3, dtype=np.float32)
    runs = {
        "lightning": made(tmp_path / "lightning", [start] * 4, logits),
        "keras": made(tmp_path / "keras", [start + move for move in moves], logits[[0, 1, 1]]),
    }
    found = compare_twins(ExperimentSpec(model=model), runs)
    assert (found["identical"], found["images"], found["same_predictions"], found["steps"]) == (False, 3, 2, 4)
    assert found["parted"] == {
        "step": 3,
        "tensor": "block1.conv1.weight",
        "distance": pytest.approx(1e-6),
        "first": pytest.approx(1e-15, rel=0.2),
        "before": pytest.approx(1e-15, rel=0.2),
        "by_rounding": False,
    }
    assert found["weights"] == {"distance": pytest.approx(1e-3), "tensor": "block1.conv1.weight"}
    assert [step for step, _ in found["distances"]] == [1, 2, 3, 4]
    assert found["losses"] == {"train_loss": 0}
    lines = twin_lines(found)
    assert lines[0] == "Not the same training: the frameworks predict differently for 1 of 3 test images."
    assert lines[-1].startswith("They part in step 3, where block1.conv1.weight differs by 1.0e−6")


def test_twins_that_end_after_different_epochs_are_not_the_same_training(tmp_path: Path) -> None:
    """Early stopping has ended one of them; up to there they are the same, and so are the predictions."""
    model = ModelSpec(network=NetworkSpec("conv(linear) - batch norm - relu", [3], units=[]))
    start, logits = np.linspace(-1, 1, 27).reshape(3, 1, 3, 3), np.eye(3, dtype=np.float32)
    runs = {
        "lightning": made(tmp_path / "lightning", [start] * 4, logits),
        "keras": made(tmp_path / "keras", [start] * 6, logits),
    }
    runs["keras"].write_history({"epoch": 2, "step": 6, "train_loss": 1.0, "seconds": 1.0})
    found = compare_twins(ExperimentSpec(model=model), runs)
    assert (found["identical"], found["epochs"], found["keras_epochs"], found["steps"]) == (False, 1, 2, 4)
    assert found["parted"] is None and twin_verdict(found) == "different"
    assert twin_lines(found)[0] == "Not the same training: Lightning's ended after epoch 1, Keras's after 2."


def test_a_trace_is_resumed_where_the_training_is(tmp_path: Path) -> None:
    run, trace = RunFolder(tmp_path), WeightTrace()
    steps = [{"b": np.arange(40.0) + step, "a": np.array([[1.0, step]])} for step in range(5)]
    for tensors in steps:
        trace.add(tensors)
    trace.write(run)
    again = WeightTrace()
    again.resume(run, steps=3)
    again.add(steps[3])
    again.add(steps[4])
    again.write(run, last=steps[4])
    found = read_trace(run)
    assert found.samples["a"].tolist() == [[1.0, step] for step in range(5)]
    assert found.samples["b"].shape == (5, SAMPLED)
    assert found.samples["b"][2, [0, -1]].tolist() == [2.0, 41.0]
    assert found.last.keys() == {"a", "b"}
