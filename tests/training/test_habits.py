"""What users of Keras are used to, as whole runs of both command lines: best epoch, early stopping, ReduceLROnPlateau,
class weights, accumulated gradients, averaged weights. That both compute the same is for parity_tests to show.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, history_without_seconds, run_here

from lightning_vgg.common.interruption import SIGNALS
from lightning_vgg.experiment.parsing import parse_experiment, read_experiment
from lightning_vgg.experiment.patience import stopping_reason
from lightning_vgg.runs.best import best_row
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.training.module import VGGClassifier

SMALL = """
    --data.source digits --data.image_size 8 --data.train_images 200 --data.batch_size 32
    --model.network.conv_block 'conv - batch norm - maxpool - dropout' --model.network.filters [4]
    --model.network.units [8] --model.optimizer.learning_rate 0.1 --trainer.logger false --name run
"""
STOPPING = f"{SMALL} --trainer.max_epochs 12 --model.early_stopping.patience 2 --model.best_by val_loss"
# 180 images are 6 batches, so 2 steps of 4 batches, the second one of the 2 that are left.
LOWERING = f"""
    {SMALL} --trainer.max_epochs 6 --model.reduce_on_plateau.patience 1 --model.reduce_on_plateau.factor 0.5
    --model.reduce_on_plateau.min_rate 0.03 --model.reduce_on_plateau.min_delta 0.3 --trainer.accumulate_grad_batches 4
"""
AVERAGING = f"{SMALL} --trainer.max_epochs 3 --model.optimizer.ema 0.9"
FRAMEWORKS = ("lightning-vgg", "keras-reference")


def record_of(run: RunFolder) -> dict[str, Any]:
    return json.loads((run.path / "run.json").read_text())


@pytest.fixture(params=FRAMEWORKS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    return run_here(tmp_path, request.param)


# Every training in Keras compiles its steps anew, which takes seconds.
trainings = pytest.mark.parametrize(
    "program", ["lightning-vgg", pytest.param("keras-reference", marks=pytest.mark.slow)], indirect=True
)


@trainings
def test_a_training_ends_when_its_patience_does_and_the_best_epoch_is_tested(program: Command, tmp_path: Path) -> None:
    result = program(f"fit {STOPPING}")
    run = RunFolder(tmp_path / "runs" / "vgg" / "run")
    rows, record = run.read_history(), record_of(run)
    spec = read_experiment(run.path / "config.yaml").model.early_stopping
    assert 3 <= len(rows) < 12
    assert [stopping_reason(spec, rows[:epochs]) is not None for epochs in (len(rows) - 1, len(rows))] == [False, True]
    assert record["stopped"] == stopping_reason(spec, rows) and record["best_by"] == "val_loss"
    assert f"stopped after epoch {len(rows)}: {record['stopped']}" in result.stdout.splitlines()
    best = best_row(rows, "val_loss")
    assert best["epoch"] == rows[-1]["epoch"] - 2
    if record["framework"] == "lightning":
        assert best != best_row(rows, "val_acc")  # or nothing is shown
        assert record["checkpoint"] == f"checkpoints/best_step{best['step']}.ckpt"
    # It is finished: the same command tests it again, and trains no more.
    before = (run.path / "history.csv").read_bytes(), record["test_loss"]
    program(f"fit -c {run.path}/config.yaml --ckpt_path last")
    assert ((run.path / "history.csv").read_bytes(), record_of(run)["test_loss"]) == before


@trainings
def test_the_rate_falls_where_validation_gets_no_better_and_steps_are_counted_instead_of_batches(
    program: Command, tmp_path: Path
) -> None:
    program(f"fit {LOWERING}")
    rows = RunFolder(tmp_path / "runs" / "vgg" / "run").read_history()
    spec = parse_experiment(shlex.split(LOWERING)).model
    rates = [row["learning_rate"] for row in rows]
    assert rates == [0.1 * spec.plateau_factor(rows[:epoch]) for epoch in range(len(rows))]
    assert sorted(set(rates)) == pytest.approx([0.03, 0.05, 0.1])
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]


Stop = Callable[[int | None], None]


@pytest.fixture
def stop_after_epoch(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Send this process SIGTERM when the row of an epoch has been written, before its checkpoint."""
    write = RunFolder.write_history

    def stop_after(epoch: int | None) -> None:
        def written(self: RunFolder, row: dict[str, float]) -> None:
            write(self, row)
            if row["epoch"] == epoch:
                signal.raise_signal(signal.SIGTERM)

        SIGNALS.install()
        monkeypatch.setattr(RunFolder, "write_history", written)

    return stop_after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "from_the_end"),
    [
        pytest.param(STOPPING, 1, id="before early stopping", marks=pytest.mark.thorough),
        pytest.param(STOPPING, 0, id="after early stopping", marks=pytest.mark.thorough),
        pytest.param(LOWERING, 1, id="reduce on plateau and accumulation"),
        pytest.param(f"{AVERAGING} --trainer.precision 64-true", 1, id="averaged weights in float64"),
    ],
)
def test_an_interrupted_run_ends_like_one_that_was_not(
    flags: str, from_the_end: int, program: Command, tmp_path: Path, stop_after_epoch: Stop
) -> None:
    program(f"fit {flags} --experiment whole")
    whole = RunFolder(tmp_path / "runs" / "whole" / "run")
    epoch = len(whole.read_history()) - from_the_end
    run = RunFolder(tmp_path / "runs" / "stopped" / "run")
    stop_after_epoch(epoch)
    program(f"fit {flags} --experiment stopped", status=143)
    stop_after_epoch(None)
    program(f"fit -c {run.path}/config.yaml --ckpt_path last")
    assert history_without_seconds(run.path) == history_without_seconds(whole.path)
    assert (run.path / "val_classes.csv").read_bytes() == (whole.path / "val_classes.csv").read_bytes()
    records = record_of(run), record_of(whole)
    assert records[0].get("stopped") == records[1].get("stopped")
    assert records[0]["test_loss"] == records[1]["test_loss"]


@pytest.mark.slow
def test_lightning_goes_on_inside_an_epoch_with_the_lowered_rate_and_the_average(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = f"{LOWERING} --model.optimizer.ema 0.9"
    command(f"fit {flags} --experiment whole")
    whole = RunFolder(tmp_path / "runs" / "whole" / "run")
    lowered = next(row for row in whole.read_history() if row["learning_rate"] < 0.1)
    train = VGGClassifier.training_step

    def stopped(self: VGGClassifier, *batch: Any) -> Any:
        # The epoch has two steps. Once, since a second signal does not wait for the end of the first one.
        if self.global_step == lowered["step"] - 2 and not SIGNALS.received:
            signal.raise_signal(signal.SIGTERM)
        return train(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(VGGClassifier, "training_step", stopped)
        command(f"fit {flags} --experiment stopped", status=143)
    run = RunFolder(tmp_path / "runs" / "stopped" / "run")
    assert len(run.read_history()) == lowered["epoch"] - 1
    command(f"fit -c {run.path}/config.yaml --ckpt_path last")
    assert history_without_seconds(run.path) == history_without_seconds(whole.path)
    assert record_of(run)["test_loss"] == record_of(whole)["test_loss"]


@trainings
def test_what_is_validated_and_tested_is_the_average(program: Command, tmp_path: Path) -> None:
    """The average of a high momentum stays near the first step's weights; the training goes on without it."""
    program(f"fit {AVERAGING} --experiment averaged --model.optimizer.ema 0.999")
    program(f"fit {AVERAGING} --experiment plain --model.optimizer.ema null")
    averaged, plain = (RunFolder(tmp_path / "runs" / name / "run") for name in ("averaged", "plain"))
    ours, theirs = averaged.read_history(), plain.read_history()
    assert [row["train_loss"] for row in ours] == [row["train_loss"] for row in theirs]
    assert all(our["val_loss"] != their["val_loss"] for our, their in zip(ours, theirs, strict=True))
    assert record_of(averaged)["test_loss"] != record_of(plain)["test_loss"]


@trainings
def test_losses_of_the_history_are_without_class_weights(program: Command, tmp_path: Path) -> None:
    """All weights are 2: twice the gradient, which Adam does not see, but for its epsilon."""
    weights = dict.fromkeys(range(10), 2.0)
    for name, flag in (("weighted", f"'{weights}'"), ("plain", "null")):
        program(f"fit {SMALL} --trainer.max_epochs 1 --experiment {name} --data.class_weight {flag}")
    weighted, plain = (RunFolder(tmp_path / "runs" / name / "run") for name in ("weighted", "plain"))
    for name in ("train_loss", "val_loss"):
        assert weighted.read_history()[0][name] == pytest.approx(plain.read_history()[0][name], rel=1e-2)
    assert record_of(weighted)["class_weights"] == [2.0] * 10 and "class_weights" not in record_of(plain)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--model.early_stopping.patience 0", "early_stopping.patience must be at least 1, not 0"),
        ("--model.early_stopping.min_delta -1", "early_stopping.min_delta must be at least 0, not -1.0"),
        (
            "--model.early_stopping.monitor train_loss",
            "\"monitor\":\n  Expected a typing.Literal['val_acc', 'val_balanced_acc', 'val_macro_f1', 'val_loss']",
        ),
        ("--model.early_stopping.patients 3", "did you mean 'model.early_stopping.patience'"),
        ("--model.reduce_on_plateau.factor 1.0", "reduce_on_plateau.factor lies in (0, 1), not 1.0"),
        ("--model.reduce_on_plateau.cooldown -1", "reduce_on_plateau.cooldown must be at least 0"),
        ("--model.reduce_on_plateau.min_rate 1", "min_rate (1.0) must not be above optimizer.learning_rate (0.001)"),
        (
            "--model.reduce_on_plateau.patience 2 --model.schedule.name one_cycle",
            "model.reduce_on_plateau needs schedule.name constant, not one_cycle",
        ),
        (
            "--model.reduce_on_plateau.patience 2 --data.validation_fraction 0",
            "model.reduce_on_plateau needs validation images: set data.validation_fraction above 0",
        ),
        ("--model.early_stopping.patience 2 --data.validation_fraction 0", "model.early_stopping needs validation"),
        ("--model.best_by val_loss --data.validation_fraction 0", "model.best_by: val_loss needs validation images"),
        ("--model.best_by val_macro_f1 --data.validation_fraction 0", "model.best_by: val_macro_f1 needs validation"),
        ("--model.best_by test_acc", "model.best_by"),
        ("--data.class_weight '{3: 0}'", "data.class_weight must be above 0, not 3: 0"),
        ("--data.class_weight '{cat: 2.0}'", "data.class_weight: there is no class 'cat'; there are 0, 1, 2"),
        ("--data.class_weight balance", "data.class_weight"),
        ("--trainer.accumulate_grad_batches 0", "accumulate_grad_batches must be at least 1, not 0"),
        ("--model.optimizer.ema 1.0", "optimizer.ema lies in (0, 1), not 1.0"),
        ("--model.optimizer.ema 0.9 --model.tricks.lookahead true", "optimizer.ema and tricks.lookahead are both"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(flags: str, complaint: str, program: Command, tmp_path: Path) -> None:
    assert complaint in program(f"fit --data.source digits {flags}", status=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_keras_refuses_an_average_of_accumulated_steps(tmp_path: Path) -> None:
    flags = "--model.optimizer.ema 0.9 --trainer.accumulate_grad_batches 2"
    error = run_here(tmp_path, "keras-reference")(f"fit --data.source digits {flags}", status=2).stderr
    assert "model.optimizer.ema with trainer.accumulate_grad_batches above 1: Keras averages" in error


def test_keras_on_jax_refuses_to_accumulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    flags = "--trainer.accumulate_grad_batches 2"
    error = run_here(tmp_path, "keras-reference")(f"fit --data.source digits {flags}", status=2).stderr
    assert "does not implement trainer.accumulate_grad_batches on JAX" in error
