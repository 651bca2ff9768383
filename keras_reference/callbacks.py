"""Keeping the run folder, and the curves in W&B, during a training."""

from __future__ import annotations

import time

import keras
import numpy as np

from keras_reference.backend import Logs, describe_backend, peak_memory
from keras_reference.checkpoints import LAST
from keras_reference.data import TrainingBatches
from keras_reference.logs import measured
from keras_reference.metrics import ClassScores
from keras_reference.optim import take_last_step
from keras_reference.patience import Patience
from keras_reference.transfer import Network, count_parameters
from lightning_vgg.common.errors import Diverged
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.images.dataset import Dataset
from lightning_vgg.runs.folder import RunFolder, Watch, epoch_line
from lightning_vgg.runs.machine import process_seconds
from lightning_vgg.weights.pretrained import Pretrained, describe_start


class NextEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Draws the epoch's batches."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.batches.start_epoch(epoch)


class LastStep(keras.callbacks.Callback):  # type: ignore[misc]
    """Makes a step of the gradients that are left at an epoch's end; Keras would carry them over to the next epoch.

    Args:
        batches: of an epoch.
        accumulated: of a step.
    """

    async_safe = True  # it reads no logs

    def __init__(self, batches: int, accumulated: int) -> None:
        super().__init__()
        self.batches = batches
        self.missing = -batches % accumulated

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if batch + 1 == self.batches:
            take_last_step(self.model, self.missing)


class RefuseBadLoss(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops a training whose loss is not finite; Keras's TerminateOnNaN would end it as if it were done.

    Args:
        run: the folder with the checkpoints.
        steps: of an epoch.
        batches: of a step.
    """

    def __init__(self, run: RunFolder, steps: int, batches: int) -> None:
        super().__init__()
        self.run = run
        self.steps = steps
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if not np.isfinite(logs["loss"]):  # the epoch's mean so far
            last = self.run.checkpoints / LAST
            step = self.epoch * self.steps + batch // self.batches + 1
            raise Diverged.in_step(step, self.epoch + 1, last if last.exists() else None)


class RunRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes history.csv, curves.png and the speed in run.json, and says an epoch a line.

    Args:
        run: the folder.
        rates: the learning rate of every step.
        patience: what lowers them.
        scores: of the classes.
        images: training images an epoch.
        echo: print the lines, of so many epochs; None: don't.
    """

    async_safe = True  # on_train_batch_end reads no logs, so Keras need not wait for them after every step

    def __init__(
        self, run: RunFolder, rates: np.ndarray, patience: Patience, scores: ClassScores, images: int, echo: int | None
    ) -> None:
        super().__init__()
        self.run = run
        self.rates = rates
        self.patience = patience
        self.scores = scores
        self.images = images
        self.echo = echo
        self.images_per_second: list[float] = []
        self.startup_seconds: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epoch_started = time.perf_counter()
        self.train_seconds: float | None = None

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.startup_seconds is None:
            self.startup_seconds = process_seconds()

    def on_test_begin(self, logs: Logs = None) -> None:
        self.train_seconds = time.perf_counter() - self.epoch_started

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.epoch_started
        step = int(self.model.optimizer.iterations)
        row: dict[str, float] = {"epoch": epoch + 1, "step": step, **measured(logs)}
        rate = float(self.rates[step - 1]) * self.patience.plateau_factor(epoch)
        row |= {"learning_rate": rate, "seconds": round(seconds, 3)}
        self.images_per_second.append(self.images / (self.train_seconds or seconds))
        assert self.startup_seconds is not None  # an epoch has a first step
        matrix = self.scores.confusion
        self.run.write_epoch(row, matrix, self.images_per_second, self.startup_seconds, peak_memory())
        if self.echo is not None:
            print(epoch_line(row, self.echo, self.run.best_by), flush=True)


class StopWhere(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops after an epoch at which ``watch`` says so, or the loss is lost."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if not np.isfinite(logs["val_loss"]):
            raise Diverged(f"the validation loss is not finite in epoch {epoch + 1}")
        if self.watch(epoch + 1, logs["val_acc"]):
            self.model.stop_training = True


def describe_run(
    experiment: ExperimentSpec, dataset: Dataset, network: Network, pretrained: Pretrained | None
) -> PlainDict:
    """The entries of run.json that are known before the results."""
    return {
        **describe_backend(),
        "precision": experiment.trainer.precision,
        "seed": experiment.seed_everything,
        **describe_start(experiment.model, pretrained),
        **dataset.describe(),
        **count_parameters(network),
    }
