"""Ending a training, and lowering its learning rate, where validation gets no better."""

from __future__ import annotations

import keras

from keras_reference.backend import Logs
from keras_reference.optim import set_plateau_factor
from lightning_vgg.experiment.patience import stopping_reason
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import ModelSpec
from lightning_vgg.runs.folder import RunFolder


class Patience(keras.callbacks.Callback):  # type: ignore[misc]
    """Follows the model's ``early_stopping`` and ``reduce_on_plateau``; its place is behind the recorder of history.

    keras.callbacks.EarlyStopping and ReduceLROnPlateau begin anew when a training is resumed, and the latter cannot
    lower the rates of a schedule.

    Args:
        run: the folder.
        spec: with the two rules.
    """

    def __init__(self, run: RunFolder, spec: ModelSpec) -> None:
        super().__init__()
        self.run = run
        self.spec = spec

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self.spec.reduce_on_plateau is not None:
            set_plateau_factor(self.model.optimizer, self.plateau_factor(epoch))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.stops(epoch + 1):
            self.model.stop_training = True

    def plateau_factor(self, epochs: int) -> float:
        """What the rates of the schedule are multiplied by after so many epochs."""
        if self.spec.reduce_on_plateau is None:  # history need not be read
            return 1.0
        return self.spec.plateau_factor(self.run.read_history()[:epochs], KERAS)

    def stops(self, epochs: int) -> bool:
        """Whether the training ends after so many epochs; if so, run.json says why."""
        if self.spec.early_stopping is None:
            return False
        reason = stopping_reason(self.spec.early_stopping, self.run.read_history()[:epochs])
        if reason is not None:
            self.run.update_record(stopped=reason)
        return reason is not None
