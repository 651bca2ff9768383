"""What the runs of a comparison have come to: read from their folders, each once."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.report.comparison import Comparison
from lightning_vgg.runs.best import best_row
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.scores import confusion, cross_entropy, macro_scores


@dataclass(frozen=True)
class Result:
    """The results of one run.

    Attributes:
        run: its folder.
        record: run.json.
        history: rows of history.csv.
        labels, logits: of the test images.
    """

    run: RunFolder
    record: PlainDict
    history: list[dict[str, float]]
    labels: np.ndarray
    logits: np.ndarray

    @cached_property
    def confusion(self) -> np.ndarray:
        """Of the test images, int64 (classes, classes)."""
        return confusion(self.labels, self.logits)

    @property
    def test_acc(self) -> float:
        return float((self.logits.argmax(1) == self.labels).mean())

    @property
    def over_classes(self) -> dict[str, float]:
        """``balanced_acc`` and ``macro_f1`` of the test images."""
        return macro_scores(self.confusion)

    @property
    def test_loss(self) -> float:
        """Nats."""
        return cross_entropy(self.labels, self.logits)

    @property
    def best_row(self) -> dict[str, float]:
        """The tested checkpoint's epoch."""
        return best_row(self.history, self.record.get("best_by", "val_acc"))


Arms = dict[str, dict[int, Result]]


def read_results(comparison: Comparison) -> Arms:
    """The results of every finished run.

    Raises:
        ExperimentError: the runs were tested on different images, or a file is damaged.
    """
    arms: Arms = {}
    first: Result | None = None
    for arm, seed, run in comparison.runs():
        try:
            result = Result(run, run.read_record(), run.read_history(), *run.read_predictions())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ExperimentError(f"{run.path} is damaged ({error}): train this run again") from None
        first = first or result
        if not np.array_equal(result.labels, first.labels):
            raise ExperimentError(f"{run.path} was tested on other images than {first.run.path}: report them apart")
        arms.setdefault(arm, {})[seed] = result
    return arms
