"""The run folder: one place that both frameworks write and the reports read.

::

    runs/<experiment>/<name>/
      config.yaml            trains this run again, unchanged
      history.csv            one row an epoch, see HISTORY_COLUMNS
      val_classes.csv        one row a class and validated epoch: epoch, and CLASS_COLUMNS of `scores`
      run.json               versions, device, data, parameters, speed, test results
      test_predictions.npz   labels int64 (N,), logits float32 (N, classes)
      curves.png  checkpoints/  wandb/
      mistakes/              pictures of the worst mistakes, see mistakes.py: of runs with ``report: true``
      report.html            and report.json, report.md: likewise
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import errno
import glob
import io
import json
import os
import shutil
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from filelock import Timeout

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.locks import transient_lock
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.best import Quantity, best_row
from lightning_vgg.runs.class_counts import are_unbalanced
from lightning_vgg.runs.curves import draw_curves
from lightning_vgg.runs.hints import hints
from lightning_vgg.runs.scores import CLASS_COLUMNS, class_rows, class_scores, confusion

if TYPE_CHECKING:
    from PIL.Image import Image

MEASURED = ("train_loss", "train_acc", "val_loss", "val_acc", "val_balanced_acc", "val_macro_f1", "learning_rate")
"""What is measured in each epoch, and logged."""

HISTORY_COLUMNS = ("epoch", "step", *MEASURED, "seconds")
"""epoch: completed epochs, from 1. step: optimizer steps so far. Losses: cross-entropy in nats, means over images.
Accuracies and F1: fractions; val_balanced_acc and val_macro_f1 are means over the classes. learning_rate: of the
epoch's last step. seconds: of the epoch, validation included."""

TESTED = ("test_loss", "test_acc", "test_balanced_acc", "test_macro_f1")
"""What is measured in the test, and logged."""

AUGMENTED_TEST_ACC = "augmented_test_acc"
"""In run.json: with test-time augmentation; test_acc is without, in any case."""

Watch = Callable[[int, float], bool]
"""Called after each epoch with its number and the validation accuracy, a fraction; returns whether to stop."""

_CURVES_SECONDS = 5.0
"""Seconds between drawings of curves.png: one takes as long as an epoch of a head on cached features."""

_CLASS_HEADER = (",".join(("epoch", *CLASS_COLUMNS)) + "\n").encode()
_WHOLE_NUMBERS = ("epoch", "step")


class RunError(ExperimentError):
    """A path that is not the run folder it should be."""


class RunFolder:
    """A run's files. Every write is atomic: a reader never sees half a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.mistakes = path / "mistakes"

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, root: Path, experiment: str, name: str | None, seed: int) -> RunFolder:
        """Make ``root/runs/experiment/name``; a name that is taken gets a number, so nothing is overwritten.

        Without a name it is the time and the seed.

        Raises:
            RunError: the experiment or the name would lead out of its folder.
        """
        for key, value in (("experiment", experiment), ("name", name)):
            if value is not None and (not value.strip() or value.startswith(".") or set(value) & set("/\\\0")):
                raise RunError(
                    f"{key} is {value!r}; it must be a folder's name: without '/', and not beginning with '.'"
                )
        name = name or f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_seed{seed}"
        parent = root / "runs" / experiment
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir(parents=True)  # the one atomic way to find out that no other process has it
            except FileExistsError:
                number += 1
            else:
                run = cls(path)
                run.checkpoints.mkdir()
                return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run folder.

        Raises:
            RunError: the path holds no config.yaml.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is not a run folder: it has no config.yaml (runs are at runs/<experiment>/<name>)")
        return cls(path)

    @classmethod
    def newest(cls, root: Path, experiment: str, name: str | None, trained: bool = True) -> RunFolder:
        """The run of an experiment, of this name where one is given, whose checkpoint is the newest.

        Args:
            root: the folder that holds runs/.
            experiment: which.
            name: which.
            trained: whether it must have a checkpoint; else a run that was stopped before its first one counts, too.

        Raises:
            RunError: there is none.
        """
        parent = root / "runs" / experiment
        folders = [cls(path) for path in parent.glob(glob.escape(name) if name else "*") if path.is_dir()]
        ages = {run: file.stat().st_mtime for run in folders for file in run._checkpoint_files("last")[:1]}
        if not trained:
            begun = {run: run.path / "config.yaml" for run in folders if run not in ages}
            ages |= {run: file.stat().st_mtime for run, file in begun.items() if file.exists()}
        if not ages:
            raise RunError(
                f"there is no trained run in {parent}/{name or ''}: "
                "give the settings of one by -c RUN/config.yaml, or a file by --ckpt_path RUN/checkpoints/last.ckpt"
            )
        return max(ages, key=lambda run: ages[run])

    def checkpoint(self, which: Literal["best", "last"]) -> Path:
        """The file of the best or the last checkpoint. If the last is damaged, this is reported, and the newest
        intact one is used.

        Raises:
            RunError: the run has no intact one.
        """
        files = self._checkpoint_files(which)
        if not files:
            raise RunError(f"{self.path} has no {which} checkpoint: {self.checkpoints}/{which}* does not exist")
        if which == "best":
            return self.sound(files[0])
        for file in (*files, *self._checkpoint_files("best")):
            damage = find_damage(file)
            if damage is None:
                return file
            print(f"the checkpoint {file} is damaged ({damage}); the newest intact one is used", file=sys.stderr)
        raise RunError(f"{self.path} has no intact checkpoint: start a new run, without --ckpt_path")

    def sound(self, checkpoint: Path) -> Path:
        """The checkpoint itself.

        Raises:
            RunError: it is damaged; the message names the run's intact ones.
        """
        damage = find_damage(checkpoint)
        if damage is not None:
            others = [str(file) for file in sorted(self.checkpoints.glob("*.ckpt")) if find_damage(file) is None]
            remedy = f"name an intact one by --ckpt_path: {', '.join(others)}" if others else "start a new run"
            raise RunError(f"the checkpoint {checkpoint} is damaged ({damage}); {remedy}")
        return checkpoint

    def _checkpoint_files(self, which: Literal["best", "last"]) -> list[Path]:
        """The newest first."""
        return sorted(self.checkpoints.glob(f"{which}*"), key=lambda path: path.stat().st_mtime, reverse=True)

    def best_file(self, step: int) -> Path:
        """Where the checkpoint after so many optimizer steps goes, if it is the best yet."""
        return self.checkpoints / f"best_step{step}.ckpt"

    def remove_other_bests(self, step: int) -> None:
        for file in self._checkpoint_files("best"):
            if file != self.best_file(step):
                file.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time train a run. A killed process leaves no lock; its partial files are removed.

        Raises:
            RunError: another process is training it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(transient_lock(self.path / ".lock", timeout=0))
            except Timeout:
                raise RunError(f"{self.path} is being trained by another process: wait for it, or stop it") from None
            for part in (*self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")):
                part.unlink()
            yield

    @contextlib.contextmanager
    def being_trained(self) -> Iterator[None]:
        """Locked; and however the training inside ends, its curves show every epoch of the history.

        Raises:
            RunError: another process is training it.
        """
        with self.locked():
            try:
                yield
            finally:
                if _time_of(self.path / "history.csv") > _time_of(self.path / "curves.png"):
                    self.write_curves()

    def discard(self) -> None:
        """Remove it, and the folders of its experiment and of all runs if they are empty now."""
        shutil.rmtree(self.path)
        for folder in self.path.parents[:2]:
            with contextlib.suppress(OSError):  # it holds other runs
                folder.rmdir()

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

    def write_classes(self, epoch: int, matrix: np.ndarray | None) -> None:
        """Add the scores of each class; rows of this epoch and later ones, left by an interrupted run, are replaced.

        Args:
            epoch: from 1.
            matrix: of its validation images, see `scores.confusion`; None where there was no validation.
        """
        path = self.path / "val_classes.csv"
        if matrix is None and not path.exists():
            return
        # Kept as they are: of a hundred classes and epochs, to read them would take as long as a head's epoch.
        header, *rows = path.read_bytes().splitlines(keepends=True) if path.exists() else [_CLASS_HEADER]
        new = io.StringIO()
        if matrix is not None:
            names = [" ".join(name.splitlines()) for name in self.read_record()["class_names"]]  # a row is a line
            csv.writer(new, lineterminator="\n").writerows([epoch, *row] for row in class_rows(matrix, names))
        with atomic_write(path) as file:
            file.write(header)
            file.writelines(row for row in rows if int(row.partition(b",")[0]) < epoch)
            file.write(new.getvalue().encode())

    def write_epoch(
        self,
        row: dict[str, float],
        matrix: np.ndarray | None,
        images_per_second: Sequence[float],
        startup_seconds: float,
        peak_memory: int,
    ) -> None:
        """Add an epoch's rows, draw the curves anew if they have become old, and set the speed so far in run.json.

        Args:
            row: see HISTORY_COLUMNS.
            matrix: of the validation images, see `scores.confusion`; None where there was no validation.
            images_per_second: training images, of each epoch so far.
            startup_seconds: from the start of the process to the end of the first step.
            peak_memory: bytes.
        """
        self.write_classes(int(row["epoch"]), matrix)
        self.write_history(row)
        self.refresh_curves()
        self.update_record(
            startup_seconds=round(startup_seconds, 2),
            images_per_second=round(statistics.median(images_per_second), 1),
            peak_memory_bytes=peak_memory,
        )

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

    @property
    def best_by(self) -> Quantity:
        """What chooses the best epoch; runs from before there was a choice have no such entry."""
        by: Quantity = self.read_record().get("best_by", "val_acc")
        return by

    def best_epoch(self) -> dict[str, float]:
        """The row of history.csv that belongs to the best checkpoint."""
        return best_row(self.read_history(), self.best_by)

    def update_record(self, **values: object) -> None:
        """Set keys of run.json and keep the others."""
        record = {**self.read_record(), **values}
        with atomic_write(self.path / "run.json") as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")

    def read_record(self) -> PlainDict:
        path = self.path / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write_test(
        self, checkpoint: str | os.PathLike[str] | None, labels: np.ndarray, logits: np.ndarray, results: PlainDict
    ) -> None:
        """Write what the test of a checkpoint has found.

        Args:
            checkpoint: its file; None for weights that are in none.
            labels: of the test images, (N,).
            logits: float32 (N, classes).
            results: what TESTED names, and whatever else was measured.
        """
        shutil.rmtree(self.mistakes, ignore_errors=True)  # those of the predictions that are replaced now
        self.write_predictions(labels, logits)
        if self.read_history():
            self.write_curves(results["test_acc"])
        name = checkpoint and f"{self.checkpoints.name}/{Path(checkpoint).name}"
        per_class = class_scores(confusion(labels, logits))["recall"].tolist()
        # Last: a run whose record has a test_acc is whole.
        self.update_record(checkpoint=name, **results, test_acc_per_class=per_class)

    def write_predictions(self, labels: np.ndarray, logits: np.ndarray) -> None:
        with atomic_write(self.path / "test_predictions.npz") as file:
            np.savez_compressed(file, labels=labels, logits=logits)

    def read_predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """labels (N,) and logits (N, classes) of the test images, in the order of the data set."""
        # numpy leaves a file that it opened itself open where it is damaged.
        with (self.path / "test_predictions.npz").open("rb") as file, np.load(file) as arrays:
            return arrays["labels"], arrays["logits"]

    @property
    def test_acc(self) -> float:
        """Of the best checkpoint, a fraction.

        Raises:
            RunError: the run has not been tested.
        """
        record = self.read_record()
        if "test_acc" not in record:
            raise RunError(f"{self.path} has not been tested: its run.json has no test_acc")
        return float(record["test_acc"])

    def hints(self) -> list[str]:
        """What of the training looks wrong, in words, with what usually helps."""
        classes = self.read_record().get("class_names")
        return hints(self.read_history(), len(classes)) if classes else []

    def plot(self) -> Image:
        """Loss and accuracy over the epochs, as curves.png has them; a notebook displays it."""
        from PIL import Image

        file = io.BytesIO()
        self._draw_curves(file, None)
        return Image.open(file)

    def write_curves(self, test_acc: float | None = None) -> None:
        """Redraw history.csv, with the test accuracy, a fraction, once it is known; None: the recorded one."""
        with atomic_write(self.path / "curves.png") as file:
            self._draw_curves(file, test_acc)

    def refresh_curves(self) -> None:
        """Redraw them during the training, if the last ones are old."""
        if time.time() - _time_of(self.path / "curves.png") > _CURVES_SECONDS:
            self.write_curves()

    def _draw_curves(self, file: IO[bytes], test_acc: float | None) -> None:
        test_acc = self.read_record().get("test_acc") if test_acc is None else test_acc
        title = f"{self.path.parent.name} · {self.path.name}"
        draw_curves(self.read_history(), self.best_by, title, test_acc, file)


def _time_of(path: Path) -> float:
    """When a file was written, in seconds since the epoch; 0 if there is none."""
    return path.stat().st_mtime if path.exists() else 0.0


def epoch_line(row: dict[str, float], epochs: int | None, best_by: Quantity) -> str:
    """``epoch  3/10  train_loss 0.8123  train_acc 71.20 %  ...  12.3 s``: losses, accuracies, and what ``best_by``
    names.
    """
    words = [f"epoch {row['epoch']:3.0f}/{epochs}"]
    for key in dict.fromkeys(("train_loss", "train_acc", "val_loss", "val_acc", best_by)):
        if key in row:
            words.append(f"{key} {row[key]:.4f}" if key.endswith("_loss") else f"{key} {row[key]:.2%}")
    return "  ".join([*words, f"{row['seconds']:.1f} s"])


def test_lines(run: RunFolder) -> str:
    """What a command says at the end of a test: the results, and where to look."""
    record = run.read_record()
    lines = [f"test_acc {record['test_acc']:.2%}  test_loss {record['test_loss']:.4f}  of {record['checkpoint']}"]
    if "images_per_class" in record and are_unbalanced(record["images_per_class"]):
        lines.append("  ".join(f"{name} {record[name]:.2%}" for name in ("test_balanced_acc", "test_macro_f1")))
    if "stopped" in record:
        lines.insert(0, f"stopped after epoch {run.read_history()[-1]['epoch']}: {record['stopped']}")
    if AUGMENTED_TEST_ACC in record:
        lines.append(f"test_acc {record[AUGMENTED_TEST_ACC]:.2%}  with test-time augmentation")
    lines += [f"run      {run.path}", f"curves   {run.path / 'curves.png'}"]
    return "\n".join([*lines, *(f"hint     {hint}" for hint in run.hints())])


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's file; None: its checksums are right.

    torch itself reads a flipped bit without an error.
    """
    if checkpoint.suffix == ".h5":  # it has no checksums
        return None
    try:
        with zipfile.ZipFile(checkpoint) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"{checkpoint.stat().st_size:,} bytes; {error}"
    return None if damaged is None else f"the checksum of {damaged} is wrong"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write beside ``path``, then move into place; on an error the old file stays as it was.

    Raises:
        RunError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"the disk is full: {path} could not be written. What was there is unchanged; make room, and continue "
                "the run with --ckpt_path last"
            ) from error
        raise
