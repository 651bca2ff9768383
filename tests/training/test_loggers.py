"""Curves in TensorBoard and CSV files, the same names and steps from either framework."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import only_run, run_here, run_in, wandb_records

from lightning_vgg.runs.folder import MEASURED, TESTED, RunFolder

FIT = """
    fit --data.source digits --data.train_images 60 --data.batch_size 18 --model.network.filters [4]
    --model.network.units [] --trainer.max_epochs 2 --name run
"""
PROGRAMS = ["lightning-vgg", "keras-reference"]


def points_in_csv(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> the curve's points: step and value."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [(int(row["step"]), float(row[name])) for row in rows if row[name]] for name in rows[0]}


def points_in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    if names:
        return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
    from tensorboard.util.tensor_util import make_ndarray

    names = events.Tags()["tensors"]
    return {name: [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(name)] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_several_loggers_get_the_same_curves(program: str, tmp_path: Path) -> None:
    run_in(tmp_path, program)(f"{FIT} --trainer.logger [tensorboard,csv,wandb]")  # W&B has one folder a process
    run = RunFolder.open(only_run(tmp_path))
    record, rows = run.read_record(), run.read_history()
    expected = {name: [(row["step"] - 1, row[name]) for row in rows] for name in MEASURED}
    expected |= {name: [(rows[-1]["step"], record[name])] for name in TESTED}
    for found in (points_in_csv(run.path / "csv/version_0"), points_in_tensorboard(run.path / "tensorboard")):
        for name, points in expected.items():
            assert [step for step, _ in found[name]] == [step for step, _ in points], name
            assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6)
    summary = {
        name: value
        for r in wandb_records(run.path)
        if r["type"] == "summary"
        for name, value in r["summary"]["update"].items()
    }
    assert [*summary["test_classes"]] == record["class_names"]
    assert [each["recall"] for each in summary["test_classes"].values()] == record["test_acc_per_class"]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_continued_run_adds_files_and_keeps_the_earlier_ones(program: str, tmp_path: Path) -> None:
    run_here(tmp_path, program)(f"{FIT} --trainer.logger [tensorboard,csv] --trainer.max_epochs 1")
    run = only_run(tmp_path)
    run_here(tmp_path, program)(f"fit -c {run}/config.yaml --ckpt_path last --trainer.max_epochs 2")
    parts = [points_in_csv(run / f"csv/version_{number}")["train_loss"] for number in (0, 1)]
    assert [[step for step, _ in part] for part in parts] == [[2], [5]]
    assert [step for step, _ in points_in_tensorboard(run / "tensorboard")["train_loss"]] == [2, 5]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_package_is_named(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorboard" else find(name))
    error = run_here(tmp_path, program)(f"{FIT} --trainer.logger tensorboard", status=2).stderr
    assert "pip install 'lightning-vgg[tensorboard]'" in error
    assert list(tmp_path.iterdir()) == []
