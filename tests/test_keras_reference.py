"""The Keras reference by itself; that it agrees with the Lightning side is for parity_tests to show.

Trainings are processes of their own, as users start them. The rest runs here: keras_reference sees to it that TensorFlow
and torch can share a process.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import CONFIGS, history_without_seconds, run_in
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss, recall_score

from keras_reference import cli
from keras_reference.config import read_experiment
from lightning_vgg.experiment.batches import Normalization, cut_batch
from lightning_vgg.experiment.dataset import Part
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.errors import ExperimentError
from lightning_vgg.experiment.network import Plan, plan_network
from lightning_vgg.experiment.neutral import read_neutral
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec, NetworkSpec, OptimizerSpec

SHORT = ("--trainer.max_epochs", "2", "--data.train_images", "300", "--data.eval_batch_size", "100")
SHORT = ("-c", str(CONFIGS / "quickstart.yaml"), *SHORT, "--model.label_smoothing", "0.1")
COLUMNS = ("train_loss", "train_acc", "val_loss", "val_acc", "learning_rate")


def keras_reference(folder: Path, *arguments: str | Path, status: int = 0, **environment: str) -> str:
    """Run the command in a folder; returns what it printed."""
    result = subprocess.run(
        [Path(sys.executable).parent / "keras-reference", *map(str, arguments)],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def record_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which one fit has run; output.txt has what it printed, and which packages it had loaded."""
    folder = tmp_path_factory.mktemp("keras")
    code = (
        "import sys\nfrom keras_reference.cli import run\nstatus = run(sys.argv[1:])\n"
        "print('loaded', *sorted({'torch', 'lightning', 'tensorflow'} & set(sys.modules)))\nsys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "fit", *SHORT, "--name", "first"],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "output.txt").write_text(result.stdout)
    assert "Traceback" not in result.stderr and "Warning:" not in result.stderr, result.stderr
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    return folder / "runs" / "quickstart" / "first"


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_fit_leaves_a_whole_run_folder(first: Path) -> None:
    assert sorted(path.name for path in first.iterdir()) == [
        "checkpoints", "config.yaml", "curves.png", "history.csv", "run.json", "test_predictions.npz", "wandb",
    ]  # fmt: skip
    assert sorted(path.name for path in (first / "checkpoints").iterdir()) == ["best.weights.h5", "last.weights.h5"]
    with Image.open(first / "curves.png") as picture:
        assert picture.size == (1600, 700)
    with (first / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "9"), ("2", "18")]  # 270 images, 32 a step
    assert all(float(row[column]) > 0 for row in rows for column in row)
    assert all(0 < float(row["train_acc"]) <= 1 and float(row["learning_rate"]) == 0.001 for row in rows)


def test_fit_says_an_epoch_a_line_and_which_checkpoint_it_tested(folder: Path, first: Path) -> None:
    record = record_of(first)
    lines = (folder / "output.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2"]
    assert f"test_acc {record['test_acc']:.2%}  test_loss {record['test_loss']:.4f}  of {record['checkpoint']}" in lines
    assert Path(record["checkpoint"]).name == "best.weights.h5"


def test_neither_torch_nor_lightning_is_loaded(folder: Path) -> None:
    assert (folder / "output.txt").read_text().splitlines()[-1] == "loaded tensorflow"


def test_recorded_test_results_equal_those_of_scikit_learn(first: Path) -> None:
    record = record_of(first)
    with np.load(first / "test_predictions.npz") as arrays:
        labels, logits = arrays["labels"], arrays["logits"]
    assert (labels.dtype, logits.dtype, logits.shape) == (np.int64, np.float32, (360, 10))
    assert record["test_acc"] == accuracy_score(labels, logits.argmax(1))
    assert record["test_acc_per_class"] == pytest.approx(recall_score(labels, logits.argmax(1), average=None))
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert record["test_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)  # without label smoothing


def test_both_frameworks_read_each_others_runs_and_the_same_seed_gives_the_same_history(
    folder: Path, first: Path, tmp_path: Path
) -> None:
    run_in(tmp_path)("fit", "-c", first / "config.yaml", "--name", "lightning", "--trainer.logger", "false")
    lightning = tmp_path / "runs" / "quickstart" / "lightning"
    keras_reference(tmp_path, "fit", "-c", lightning / "config.yaml", "--name", "again")
    again = tmp_path / "runs" / "quickstart" / "again"
    assert history_without_seconds(again) == history_without_seconds(first)
    assert (lightning / "history.csv").read_text().splitlines()[0] == (first / "history.csv").read_text().split("\n")[0]
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (first, lightning, again)]
    assert configs[0]["model"] == configs[1]["model"] == configs[2]["model"]
    ours, theirs = record_of(first), record_of(lightning)
    assert set(ours) == {*theirs, "backend"}
    same = ("precision", "seed", "data_fingerprint", "class_names", "normalization", "images", "parameters", "device")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert (ours["framework"], ours["backend"]) == ("keras", "tensorflow")
    assert set(ours["versions"]) == {"python", "keras", "tensorflow"}
    assert not (again / "wandb").exists()  # Lightning's run had none


def test_test_repeats_the_results_and_export_writes_the_best_weights(first: Path, tmp_path: Path) -> None:
    before = record_of(first)
    assert f"test_acc {before['test_acc']:.2%}" in keras_reference(tmp_path, "test", "-c", first / "config.yaml")
    assert record_of(first) == before
    keras_reference(tmp_path, "export", first, "--output", "weights.safetensors")
    config = read_experiment("fit", ["-c", str(first / "config.yaml")])
    from keras_reference.weights import _shapes, build_model_of  # noqa: F401


def test_wandb_has_the_names_and_steps_of_lightnings_logger(first: Path) -> None:
    (file,) = first.glob("wandb/offline-run-*/*.wandb")
    inspect = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", file]
    records = [json.loads(line) for line in subprocess.check_output(inspect, text=True).splitlines()]
    points = [record["history"]["item"] for record in records if record["type"] == "history"]
    with (first / "history.csv").open() as csv_file:
        rows = list(csv.DictReader(csv_file))
    for name in COLUMNS:
        curve = [(point["epoch"], point["trainer/global_step"], point[name]) for point in points if name in point]
        assert curve == [(int(row["epoch"]) - 1, int(row["step"]) - 1, float(row[name])) for row in rows], name
    assert {key: points[-1][key] for key in ("epoch", "trainer/global_step", "test_loss", "test_acc")} == {
        "epoch": 2, "trainer/global_step": 18, **{key: record_of(first)[key] for key in ("test_loss", "test_acc")}
    }  # fmt: skip
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert (run["job_type"], run["run_group"], run["display_name"]) == ("keras", "quickstart", "first")
    saved = yaml.safe_load((first / "config.yaml").read_text())
    assert {key: value for key, value in run["config"]["update"].items() if key != "_wandb"} == saved
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert [metric.get("name") or metric["glob_name"] for metric in metrics] == ["trainer/global_step", "*"]
