"""Every argument of Lightning's trainer is honoured, or refused by name; docs/trainer.md says which."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, Command, Finished, only_run, run_in
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vgg.experiment.trainer_flags import FLAGS, flags_table
from lightning_vgg.runs.folder import RunFolder

STEPS = 3
"""Batches in an epoch of this experiment."""
FIT = """
    fit --data.source digits --data.train_images 60 --data.batch_size 18 --model.network.filters [4]
    --model.network.units [] --model.network.conv_block 'conv - batch norm - maxpool' --trainer.logger false
    --trainer.max_epochs 2 --name run
"""
SPY = "--trainer.callbacks test_trainer_flags.Spy"


class Spy(Callback):
    """Keeps what is set while a training runs."""

    seen: dict[str, Any] = {}  # noqa: RUF012 - that of the last training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Spy.seen = {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "anomaly": torch.is_anomaly_enabled(),
            "device": pl_module.device.type,
            "nodes": trainer.num_nodes,
            "processes": trainer.world_size,
            "validations": [],
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        Spy.seen["anomaly"] = torch.is_anomaly_enabled()

    def on_validation_batch_start(self, trainer: Trainer, *others: Any) -> None:
        Spy.seen["inference_mode"] = torch.is_inference_mode_enabled()
        Spy.seen["validations"].append(trainer.global_step)


class Unavailable(Callback):
    def __init__(self) -> None:
        raise ModuleNotFoundError("No module named 'telescope'")


@dataclass(frozen=True)
class Trained:
    """A command that has run, and what it left."""

    printed: Finished
    folder: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder.open(only_run(self.folder))

    @property
    def steps(self) -> list[float]:
        return [row["step"] for row in self.run.read_history()]

    @property
    def validated(self) -> list[bool]:
        return ["val_acc" in row for row in self.run.read_history()]


def every_epoch_has_a_sanity_check_before_it(trained: Trained) -> bool:
    return Spy.seen["validations"][0] == STEPS and trained.validated == [True, True]


STOPPER = """--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_acc --trainer.callbacks.patience 1
    --trainer.callbacks.min_delta 1"""

HONOURED: list[tuple[str, str, Callable[[Trained], bool]]] = [
    ("accelerator", f"--trainer.accelerator cpu {SPY}", lambda _: Spy.seen["device"] == "cpu"),
    ("strategy", f"--trainer.strategy auto {SPY}", lambda _: Spy.seen["processes"] == 1),
    ("devices", f"--trainer.devices 1 {SPY}", lambda _: Spy.seen["processes"] == 1),
    ("num_nodes", f"--trainer.num_nodes 1 {SPY}", lambda _: Spy.seen["nodes"] == 1),
    ("precision", "--trainer.precision 64-true", lambda one: one.run.read_record()["precision"] == "64-true"),
    ("logger", "--trainer.logger csv", lambda one: (one.run.path / "csv/version_0/metrics.csv").exists()),
    ("callbacks", f"{SPY} --trainer.max_epochs 1", lambda _: Spy.seen["validations"] == [STEPS]),
    ("fast_dev_run", "--trainer.fast_dev_run true", lambda one: not (one.folder / "runs").exists()),
    ("max_epochs", "--trainer.max_epochs 3", lambda one: one.steps == [3, 6, 9]),
    ("min_epochs", f"{STOPPER} --trainer.max_epochs 9 --trainer.min_epochs 4", lambda one: len(one.steps) == 4),
    ("min_steps", f"{STOPPER} --trainer.max_epochs 9 --trainer.min_steps 9", lambda one: one.steps == [3, 6, 9]),
    ("callbacks", f"{STOPPER} --trainer.max_epochs 9", lambda one: one.steps == [3, 6]),
    ("max_steps", "--trainer.max_steps 5", lambda one: one.steps == [3, 5]),
    ("max_steps", "--trainer.max_steps 5 --trainer.max_epochs -1", lambda one: one.steps == [3, 5]),
    ("max_time", "--trainer.max_time 00:00:00:01 --trainer.max_epochs 9999", lambda one: 0 < len(one.steps) < 9999),
    ("limit_train_batches", "--trainer.limit_train_batches 2", lambda one: one.steps == [2, 4]),
    ("limit_train_batches", "--trainer.limit_train_batches 0.4", lambda one: one.steps == [1, 2]),
    ("limit_val_batches", "--trainer.limit_val_batches 0", lambda one: one.validated == [False, False]),
    (
        "limit_test_batches",
        "--trainer.limit_test_batches 1 --data.eval_batch_size 20",
        lambda one: len(one.run.read_predictions()[0]) == 20,
    ),
    ("val_check_interval", f"--trainer.val_check_interval 2 {SPY}", lambda one: one.validated == [False, False]),
    ("val_check_interval", f"--trainer.val_check_interval 1 {SPY}", lambda one: one.validated == [True, True]),
    (
        "val_check_interval",
        f"--trainer.val_check_interval 2 --trainer.check_val_every_n_epoch null {SPY}",
        lambda one: (one.validated, Spy.seen["validations"]) == ([False, True], [2, 4, 6]),
    ),
    (
        "check_val_every_n_epoch",
        "--trainer.check_val_every_n_epoch 2 --trainer.max_epochs 5",
        lambda one: one.validated == [False, True, False, True, False],
    ),
    ("num_sanity_val_steps", f"--trainer.num_sanity_val_steps 1 {SPY}", every_epoch_has_a_sanity_check_before_it),
    (
        "log_every_n_steps",
        """--trainer.log_every_n_steps 2 --trainer.logger csv
        --trainer.callbacks LearningRateMonitor --trainer.callbacks.logging_interval step""",
        lambda one: sum(bool(row["lr-AdamW"]) for row in logged(one)) == STEPS,
    ),
    ("enable_progress_bar", "--trainer.enable_progress_bar true", lambda one: "Epoch 1" in one.printed.stdout),
    (
        "enable_model_summary",
        "--trainer.enable_model_summary true",
        lambda one: "Trainable params" in one.printed.stdout,
    ),
    ("accumulate_grad_batches", "--trainer.accumulate_grad_batches 2", lambda one: one.steps == [2, 4]),
    (
        "gradient_clip_val",
        "--trainer.gradient_clip_val 1e-12 --model.optimizer.name sgd --model.optimizer.learning_rate 1",
        lambda one: abs(one.run.read_history()[0]["train_loss"] - one.run.read_history()[1]["train_loss"]) < 0.1,
    ),
    ("deterministic", f"--trainer.deterministic true {SPY}", lambda _: Spy.seen["deterministic"]),
    ("benchmark", f"--trainer.benchmark true {SPY}", lambda _: Spy.seen["benchmark"]),
    ("inference_mode", f"--trainer.inference_mode false {SPY}", lambda _: not Spy.seen["inference_mode"]),
    ("detect_anomaly", f"--trainer.detect_anomaly true {SPY}", lambda _: Spy.seen["anomaly"]),
    ("default_root_dir", "--trainer.default_root_dir below", lambda one: (one.folder / "below/runs/vgg/run").is_dir()),
    ("enable_checkpointing", "--trainer.enable_checkpointing true", lambda one: one.run.checkpoint("best").exists()),
]
ELSEWHERE = {"sync_batchnorm": "test_processes.py", "profiler": "test_a_profiler_says_where_the_time_went"}
"""Flags that another file or test holds."""

REFUSED = [
    ("strategy", "--trainer.strategy fsdp", "trainer.strategy: fsdp is not supported"),
    ("precision", "--trainer.precision 16-mixed", "clipped before they are unscaled"),
    ("limit_predict_batches", "--trainer.limit_predict_batches 3", "name fewer"),
    ("overfit_batches", "--trainer.overfit_batches 1", "--data.train_images N"),
    ("enable_checkpointing", "--trainer.enable_checkpointing false", "has to be one"),
    ("gradient_clip_algorithm", "--trainer.gradient_clip_algorithm value", "by their norm"),
    ("use_distributed_sampler", "--trainer.use_distributed_sampler false", "its part of a batch already"),
    ("barebones", "--trainer.barebones true", "checkpoints and the history"),
    ("plugins", "--trainer.plugins lightning.pytorch.plugins.io.TorchCheckpointIO", "the other settings"),
    ("reload_dataloaders_every_n_epochs", "--trainer.reload_dataloaders_every_n_epochs 1", "do not change"),
    ("enable_autolog_hparams", "--trainer.enable_autolog_hparams false", "in config.yaml"),
    ("model_registry", "--trainer.model_registry mine", "lightning-vgg export"),
    ("max_epochs", "--trainer.max_epochs -1 --trainer.max_time 00:00:00:05", "without an end"),
    ("limit_train_batches", "--trainer.limit_train_batches 0", "leaves nothing to do"),
    ("limit_test_batches", "--trainer.limit_test_batches 0.0", "leaves nothing to do"),
    (
        "callbacks",
        "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_accuracy",
        "choose one of train_loss",
    ),
    (
        "callbacks",
        "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_acc --data.validation_fraction 0",
        "choose one of train_loss, train_acc, learning_rate",
    ),
    ("callbacks", "--trainer.callbacks test_trainer_flags.Unavailable", "No module named 'telescope'"),
    ("callbacks", "--trainer.callbacks nowhere.Callback", "nowhere"),
    ("limit_val_batches", "--trainer.limit_val_batches 0 --model.best_by val_loss", "there is no validation"),
    ("logger", "--trainer.logger telescope", "telescope"),
    ("devices", "--trainer.accelerator cpu --trainer.devices 0", "devices"),
]


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Any:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


def logged(trained: Trained) -> list[dict[str, str]]:
    with (trained.run.path / "csv/version_0/metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "flags", "is_honoured"), HONOURED)
def test_a_flag_is_honoured(
    name: str, flags: str, is_honoured: Callable[[Trained], bool], command: Command, tmp_path: Path
) -> None:
    assert f"--trainer.{name}" in flags
    assert is_honoured(Trained(command(f"{FIT} {flags}"), tmp_path))


@pytest.mark.parametrize(("name", "flags", "says"), REFUSED)
def test_a_flag_is_refused_by_name_and_nothing_is_left(
    name: str, flags: str, says: str, command: Command, tmp_path: Path
) -> None:
    error = command(f"{FIT} {flags}", status=2).stderr
    assert says in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_every_argument_of_the_trainer_has_a_test_and_a_row_in_the_docs() -> None:
    arguments = list(inspect.signature(Trainer.__init__).parameters)[1:]
    assert sorted(FLAGS) == sorted(arguments)
    assert {*FLAGS} == {*ELSEWHERE, *(name for name, *_ in [*HONOURED, *REFUSED])}
    restricted = {name for name, flag in FLAGS.items() if flag.allowed is not None}
    assert restricted <= {name for name, *_ in REFUSED}
    assert flags_table() in (REPOSITORY / "docs" / "trainer.md").read_text()


def test_a_profiler_says_where_the_time_went(tmp_path: Path) -> None:
    """In a process of its own: Lightning's log writes to the standard error that it found when it was imported."""
    printed = run_in(tmp_path)(f"{FIT} --trainer.profiler simple --trainer.max_epochs 1")
    assert "run_training_batch" in printed.stderr


RESUMED = [
    ("--trainer.limit_train_batches 1", "trainer.limit_train_batches: None in the run, 1 now"),
    ("--trainer.check_val_every_n_epoch 3", "trainer.check_val_every_n_epoch: 1 in the run, 3 now"),
    ("--trainer.accumulate_grad_batches 2", "trainer.accumulate_grad_batches: 1 in the run, 2 now"),
    ("--trainer.precision bf16-mixed", "trainer.precision: 32-true in the run, bf16-mixed now"),
    ("--trainer.max_epochs 4", "of this length"),
    ("--trainer.max_epochs 1", "has trained 2 epochs, trainer.max_epochs is 1"),
    ("--trainer.callbacks EarlyStopping --trainer.callbacks.monitor accuracy", "which is not measured"),
    ("--trainer.strategy fsdp", "trainer.strategy: fsdp is not supported"),
]


def test_a_run_is_continued_as_it_was_or_not_at_all(command: Command, tmp_path: Path) -> None:
    command(f"{FIT} --model.schedule.name cosine")
    run = only_run(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for flags, says in RESUMED:
        error = command(f"fit -c {run}/config.yaml --ckpt_path last {flags}", status=2).stderr
        assert says in error, error
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_constant_rate_allows_a_longer_training(command: Command, tmp_path: Path) -> None:
    command(FIT)
    command(f"fit -c {only_run(tmp_path)}/config.yaml --ckpt_path last --trainer.max_epochs 3")
    assert Trained(Finished([], 0), tmp_path).steps == [3, 6, 9]


def test_the_best_epoch_is_the_best_of_those_that_were_validated(command: Command, tmp_path: Path) -> None:
    command(f"{FIT} --trainer.check_val_every_n_epoch 2 --trainer.max_epochs 5")
    run = RunFolder.open(only_run(tmp_path))
    best = max((row for row in run.read_history() if "val_acc" in row), key=lambda row: row["val_acc"])
    classes = (run.path / "val_classes.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in classes] == ["2"] * 10 + ["4"] * 10
    assert run.read_record()["checkpoint"] == f"checkpoints/best_step{best['step']}.ckpt"
