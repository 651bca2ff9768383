"""What happens where validation gets no better: the training ends, or its learning rate falls.

Both rules are functions of the epochs so far, as history.csv has them. So there is nothing to keep in a checkpoint, and
a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.nulls import refuse_null
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.runs.best import Quantity, score

Rows = Sequence[dict[str, float]]
"""Of history.csv, one an epoch; an epoch without validation counts for nothing."""


@dataclass(frozen=True)
class EarlyStoppingSpec:
    """Ends a training that gets no better, as ``EarlyStopping`` of Keras and of Lightning do, which count alike.

    Args:
        monitor: the quantity that has to improve.
        patience: so many epochs in a row without an improvement end the training.
        min_delta: an improvement beats the best value so far by more than this.
    """

    monitor: Quantity = "val_loss"
    patience: int = 3
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        refuse_null(self, "early_stopping")
        if self.patience < 1:
            raise ExperimentError(f"early_stopping.patience must be at least 1, not {self.patience}")
        _refuse_negative(self.min_delta, "early_stopping.min_delta")


@dataclass(frozen=True)
class PlateauSpec:
    """Lowers the learning rate of a training that gets no better: ReduceLROnPlateau, by the semantics' rule.

    Args:
        monitor: the quantity that has to improve.
        factor: by which the rate is multiplied.
        patience: so many epochs in a row without an improvement lower the rate; PyTorch waits for one more.
        min_delta: an improvement beats the best value so far by more than this; in PyTorch, by more than this share of
            it.
        cooldown: epochs after a lowering that do not count; in Keras the last of them does.
        min_rate: the rate never falls below this.
    """

    monitor: Quantity = "val_loss"
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    min_rate: float = 0.0

    def __post_init__(self) -> None:
        refuse_null(self, "reduce_on_plateau")
        if not 0 < self.factor < 1:
            raise ExperimentError(f"reduce_on_plateau.factor lies in (0, 1), not {self.factor}")
        if min(self.patience, self.cooldown) < 0:
            raise ExperimentError("reduce_on_plateau.patience and reduce_on_plateau.cooldown must be at least 0")
        for name in ("min_delta", "min_rate"):
            _refuse_negative(getattr(self, name), f"reduce_on_plateau.{name}")


def _refuse_negative(value: float, place: str) -> None:
    if not 0 <= value < math.inf:
        raise ExperimentError(f"{place} must be at least 0, not {value}")


def stopping_reason(spec: EarlyStoppingSpec | None, history: Rows) -> str | None:
    """Why a training ends after these epochs; None: it goes on.

    The rule of keras.callbacks.EarlyStopping, in float64, where Keras compares in its float type.

    >>> rows = [{"epoch": n, "val_loss": loss} for n, loss in enumerate([0.9, 0.5, 0.6, 0.5], start=1)]
    >>> stopping_reason(EarlyStoppingSpec(patience=2), rows)
    'val_loss has not been better than 0.5000, of epoch 2, for 2 epochs'
    """
    if spec is None:
        return None
    best: dict[str, float] | None = None
    waited = 0
    for row in (row for row in history if spec.monitor in row):
        if best is None or _by(spec.monitor, row) - spec.min_delta > _by(spec.monitor, best):
            best, waited = row, 0
        else:
            waited += 1
    if best is None or waited < spec.patience:
        return None
    value = best[spec.monitor]
    words = f"{value:.4f}" if spec.monitor == "val_loss" else f"{value:.2%}"
    margin = f" by more than {spec.min_delta:g}" if spec.min_delta else ""
    epochs = f"{waited} epoch{'s' if waited > 1 else ''}"
    return f"{spec.monitor} has not been better than {words}, of epoch {best['epoch']},{margin} for {epochs}"


def plateau_factor(spec: PlateauSpec | None, semantics: Semantics, highest_rate: float, history: Rows) -> float:
    """What the learning rate has been multiplied by after these epochs; 1.0 without a spec.

    The rules of keras.callbacks.ReduceLROnPlateau and torch.optim.lr_scheduler.ReduceLROnPlateau, but for torch's
    ``eps``: torch leaves out a change of the rate by less than 1e-8.

    Args:
        spec: the rule.
        semantics: whose rule.
        highest_rate: the rate that ``min_rate`` is below.
        history: the epochs so far.

    >>> from lightning_vgg.experiment.semantics import KERAS, TORCH
    >>> rows = [{"val_loss": loss} for loss in (0.9, 0.5, 0.6, 0.5)]
    >>> [plateau_factor(PlateauSpec(patience=2), semantics, 0.01, rows) for semantics in (KERAS, TORCH)]
    [0.1, 1.0]
    """
    if spec is None:
        return 1.0
    # In Keras a patience of 0 is as one of 1.
    enough = spec.patience + 1 if semantics.plateau_patience == "exceeded" else max(spec.patience, 1)
    silent = spec.cooldown if semantics.plateau_cooldown == "silent" else max(spec.cooldown - 1, 0)
    factor, best, waited, resting = 1.0, -math.inf, 0, 0
    for row in (row for row in history if spec.monitor in row):
        value = _by(spec.monitor, row)
        margin = spec.min_delta * (abs(best) if semantics.plateau_threshold == "relative" else 1)
        if best == -math.inf or value - margin > best:
            best, waited = value, 0
        elif not resting:
            waited += 1
        resting = max(resting - 1, 0)
        if waited >= enough:
            factor = max(factor * spec.factor, spec.min_rate / highest_rate)
            waited, resting = 0, silent
    return factor


def _by(monitor: Quantity, row: dict[str, float]) -> float:
    return score(row[monitor], monitor)
