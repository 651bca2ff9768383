"""What Keras measures in an epoch, by the names that both frameworks' run folders have."""

from __future__ import annotations

from collections.abc import Mapping

NAMES = {
    "train_loss": ("training_loss", "cross_entropy"),  # "loss" in Keras's logs has the L2 penalty in it
    "train_acc": ("acc",),
    "val_loss": ("val_cross_entropy",),  # "val_loss" in Keras's logs has the label smoothing in it
    "val_acc": ("val_acc",),
    "val_balanced_acc": ("val_balanced_acc",),
    "val_macro_f1": ("val_macro_f1",),
}
"""Column of the history -> its name in Keras's logs, the first that is there."""


def measured(logs: Mapping[str, float]) -> dict[str, float]:
    """An epoch's losses and scores by the columns of history.csv; those of validation only where there is one."""
    return {
        column: next(logs[name] for name in names if name in logs)
        for column, names in NAMES.items()
        if any(name in logs for name in names)
    }
