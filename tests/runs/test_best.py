"""Which epoch is the best one."""

from __future__ import annotations

import math

import pytest

from lightning_vgg.runs.best import Quantity, best_row

NAN = math.nan


@pytest.mark.parametrize(
    ("by", "values", "best"),
    [
        ("val_acc", [0.25, 0.75, 0.5, 0.75], 2),
        ("val_balanced_acc", [0.25, 0.75, 0.5, 0.75], 2),
        ("val_macro_f1", [NAN, 0.25, 0.75, 0.5], 3),
        ("val_loss", [0.25, 0.75, 0.125, 0.125], 3),
        ("val_loss", [NAN, math.inf, 2.0, NAN], 3),
        ("val_loss", [NAN, NAN], 1),
    ],
)
def test_the_first_of_the_best(by: Quantity, values: list[float], best: int) -> None:
    rows: list[dict[str, float]] = [{"epoch": epoch, by: value} for epoch, value in enumerate(values, start=1)]
    assert best_row(rows, by)["epoch"] == best


def test_an_epoch_without_validation_is_never_the_best_and_without_any_it_is_the_last() -> None:
    rows: list[dict[str, float]] = [{"epoch": 1}, {"epoch": 2, "val_acc": 0.5, "val_loss": 9.0}, {"epoch": 3}]
    assert best_row(rows, "val_acc")["epoch"] == best_row(rows, "val_loss")["epoch"] == 2
    assert best_row(rows[:1] + rows[2:], "val_loss")["epoch"] == 3
