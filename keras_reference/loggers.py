"""Sending a run's curves to W&B, TensorBoard, or a CSV file, under the names and steps of Lightning's loggers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Protocol

import keras

from keras_reference.backend import Logs
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.specs import LoggerName
from lightning_vgg.runs.folder import MEASURED, RunFolder, atomic_write
from lightning_vgg.runs.tracking import STEP, summary, wandb_arguments


class Curves(Protocol):
    """Where curves go."""

    def log(self, epoch: int, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve; epoch and step count from 0."""

    def finish(self) -> None:
        """After the last point."""


class SendCurves(keras.callbacks.Callback):  # type: ignore[misc]
    """Sends each row of history.csv, and in the end the test results."""

    def __init__(self, run: RunFolder, curves: list[Curves]) -> None:
        super().__init__()
        self.run = run
        self.curves = curves

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        row = self.run.read_history()[-1]
        for each in self.curves:
            each.log(epoch, int(row["step"]) - 1, {name: row[name] for name in MEASURED if name in row})

    def finish(self, results: dict[str, float]) -> None:
        """Send the test results, too."""
        row = self.run.read_history()[-1]
        for each in self.curves:
            each.log(int(row["epoch"]), int(row["step"]), results)
            each.finish()


def build_curves(names: list[LoggerName], run: RunFolder, experiment: str, settings: PlainDict) -> list[Curves]:
    """What the names of loggers stand for.

    Args:
        names: which.
        run: its folder.
        experiment: what W&B groups it by.
        settings: all of the experiment, for W&B.
    """
    known: dict[LoggerName, Any] = {
        "wandb": lambda: WandbCurves(run, wandb_arguments(run, experiment, "keras", settings)),
        "tensorboard": lambda: TensorboardCurves(run.path / "tensorboard"),
        "csv": lambda: CsvCurves(run.path / "csv"),
    }
    return [known[name]() for name in names]


class WandbCurves:
    """A W&B run."""

    def __init__(self, run: RunFolder, arguments: PlainDict) -> None:
        import wandb

        self.run = run
        self.wandb = wandb.init(**arguments)
        self.wandb.define_metric(STEP)
        self.wandb.define_metric("*", step_metric=STEP, step_sync=True)

    def log(self, epoch: int, step: int, values: dict[str, float]) -> None:
        self.wandb.log({"epoch": epoch, STEP: step, **values})

    def finish(self) -> None:
        self.wandb.summary.update(summary(self.run))
        self.wandb.finish()


class TensorboardCurves:
    """Event files in a folder; a resumed run adds one."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        self.writer = Writer(str(folder))

    def log(self, epoch: int, step: int, values: dict[str, float]) -> None:
        for name, value in {"epoch": epoch, **values}.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self) -> None:
        self.writer.close()


class CsvCurves:
    """A file metrics.csv in the next free folder version_0, version_1, ..., as Lightning's CSVLogger has it."""

    def __init__(self, folder: Path) -> None:
        number = 0
        while (folder / f"version_{number}").exists():
            number += 1
        self.file = folder / f"version_{number}" / "metrics.csv"
        self.file.parent.mkdir(parents=True)
        self.rows: list[dict[str, float]] = []

    def log(self, epoch: int, step: int, values: dict[str, float]) -> None:
        self.rows.append({"epoch": epoch, "step": step, **values})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.file) as file:
            file.write(text.getvalue().encode())

    def finish(self) -> None:
        pass
