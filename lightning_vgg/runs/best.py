"""Which epoch of a training is its best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Quantity = Literal["val_acc", "val_balanced_acc", "val_macro_f1", "val_loss"]
"""What epochs are judged by, a column of history.csv. Of a loss the lowest value is the best, else the highest."""


def score(value: float, by: Quantity) -> float:
    """A number that is higher for a better epoch; a value that is not a number is as bad as any."""
    if math.isnan(value):
        return -math.inf
    return -value if by == "val_loss" else value


def best_row(history: Sequence[dict[str, float]], by: Quantity) -> dict[str, float]:
    """The row of history.csv whose checkpoint is the best one: of equal rows the first; without validation the last.

    >>> rows = [{"epoch": 1, "val_loss": 0.9, "val_acc": 0.7}, {"epoch": 2, "val_loss": 0.8, "val_acc": 0.7}]
    >>> best_row(rows, "val_acc")["epoch"], best_row(rows, "val_loss")["epoch"]
    (1, 2)
    """
    validated = [row for row in history if by in row]
    return max(validated, key=lambda row: score(row[by], by)) if validated else history[-1]
