"""The run folder: one place that both frameworks write and the reports read.

::

    runs/<experiment>/<name>/
      config.yaml            trains this run again, unchanged
      history.csv            one row an epoch, see HISTORY_COLUMNS
      run.json               versions, device, data, parameters, speed, test results
      test_predictions.npz   labels int64 (N,), logits float32 (N, classes)
      curves.png  checkpoints/  wandb/
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from lightning_vgg.experiment.errors import ExperimentError

HISTORY_COLUMNS = ("epoch", "step", "train_loss", "train_acc", "val_loss", "val_acc", "learning_rate", "seconds")
"""epoch: completed epochs, from 1. step: optimizer steps so far. Losses: cross-entropy in nats, means over images.
Accuracies: fractions. learning_rate: of the epoch's last step. seconds: of the epoch, validation included."""

Watch = Callable[[int, float], bool]
"""Follows a run: is told the epochs done and the last one's validation accuracy, a fraction; says whether to stop."""

_WHOLE_NUMBERS = ("epoch", "step")


class RunError(ExperimentError):
    """A path that is not the run folder it should be."""


class RunFolder:
    """A run's files. Every write is atomic: a reader never sees half a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, root: Path, experiment: str, name: str | None, seed: int) -> RunFolder:
        """Make ``root/runs/experiment/name``; a name that is taken gets a number, so nothing is overwritten.

        Without a name it is the time and the seed.
        """
        name = name or f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_seed{seed}"
        parent = root / "runs" / experiment
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()  # the one atomic way to find out that no other process has it
            except FileExistsError:
                number += 1
            else:
                return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            RunError: the path holds no config.yaml.
        """
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is no run folder: it holds no config.yaml (runs lie at runs/<experiment>/<name>)")
        return cls(path)

    @classmethod
    def newest(cls, root: Path, experiment: str, name: str | None) -> RunFolder:
        """The run of an experiment, of this name where one is given, whose checkpoint is the newest.

        Raises:
            RunError: there is none.
        """
        parent = root / "runs" / experiment
        checkpoints = sorted(parent.glob(f"{name or '*'}/checkpoints/last*"), key=lambda path: path.stat().st_mtime)
        if not checkpoints:
            raise RunError(
                f"there is no trained run in {parent}/{name or ''}: "
                "give the settings of one by -c RUN/config.yaml, or a file by --ckpt_path RUN/checkpoints/last.ckpt"
            )
        return cls(checkpoints[-1].parent.parent)

    def checkpoint(self, which: Literal["best", "last"]) -> Path:
        """The file of the best or the last checkpoint.

        Raises:
            RunError: the run has none.
        """
        files = sorted(self.checkpoints.glob(f"{which}*"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise RunError(f"{self.path} holds no {which} checkpoint: {self.checkpoints}/{which}* does not exist")
        return files[-1]

    def write_config(self, text: str) -> None:
        with atomic_write(self.path / "config.yaml") as file:
            file.write(text.encode())

    def write_history(self, row: dict[str, float]) -> None:
        """Add an epoch's row; rows of this epoch and later ones, left by an interrupted run, are replaced."""
        rows = [earlier for earlier in self.read_history() if earlier["epoch"] < row["epoch"]] + [row]
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.path / "history.csv") as file:
            file.write(text.getvalue().encode())

    def read_history(self) -> list[dict[str, float]]:
        """The rows of history.csv; a value that was not measured is left out of its row."""
        path = self.path / "history.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [
                {key: int(value) if key in _WHOLE_NUMBERS else float(value) for key, value in row.items() if value}
                for row in csv.DictReader(file)
            ]

    def update_record(self, **values: Any) -> None:
        """Set keys of run.json and keep the others."""
        record = {**self.read_record(), **values}
        with atomic_write(self.path / "run.json") as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")

    def read_record(self) -> dict[str, Any]:
        path = self.path / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write_predictions(self, labels: np.ndarray, logits: np.ndarray) -> None:
        with atomic_write(self.path / "test_predictions.npz") as file:
            np.savez_compressed(file, labels=labels, logits=logits)

    def read_predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """labels (N,) and logits (N, classes) of the test images, in the order of the data set."""
        # numpy leaves a file that it opened itself open where it is damaged.
        with (self.path / "test_predictions.npz").open("rb") as file, np.load(file) as arrays:
            return arrays["labels"], arrays["logits"]

    def write_curves(self, draw: Callable[[IO[bytes]], None]) -> None:
        with atomic_write(self.path / "curves.png") as file:
            draw(file)


def epoch_line(row: dict[str, float], epochs: int | None) -> str:
    """``epoch  3/10  train_loss 0.8123  train_acc 71.20 %  ...  12.3 s``."""
    words = [f"epoch {row['epoch']:3.0f}/{epochs}"]
    for key, value in row.items():
        if key.endswith(("_loss", "_acc")):
            words.append(f"{key} {value:.4f}" if key.endswith("_loss") else f"{key} {value:.2%}")
    return "  ".join([*words, f"{row['seconds']:.1f} s"])


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write beside ``path``, then move into place; on an error the old file stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
