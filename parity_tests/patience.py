"""Early stopping and ReduceLROnPlateau: our rules beside Keras's own callbacks, on random curves of validation."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_vgg.experiment.patience import EarlyStoppingSpec, stopping_reason
from lightning_vgg.experiment.specs import ModelSpec
from lightning_vgg.runs.best import Quantity
from parity_tests.frameworks import keras
from parity_tests.pair import Tensors, keras_precision

CURVES = 8


def stopping_epochs(spec: EarlyStoppingSpec) -> tuple[Tensors, Tensors]:
    """After which epoch a training ends, of each curve, by our rule and by keras.callbacks.EarlyStopping."""
    ours, theirs = [], []
    for rows in curves(spec.monitor, spec.min_delta, 8 * (spec.patience + 2)):
        ends = (epochs for epochs in range(1, len(rows) + 1) if stopping_reason(spec, rows[:epochs]))
        ours.append(next(ends, len(rows)))
        callback = keras.callbacks.EarlyStopping(spec.monitor, spec.min_delta, spec.patience, mode=_mode(spec.monitor))
        theirs.append(_trained(callback, rows)[0])
    return {"epochs": np.array(ours)}, {"epochs": np.array(theirs)}


def plateau_rates(model: ModelSpec) -> tuple[Tensors, Tensors]:
    """The learning rate after each epoch of each curve, by our rule and by keras.callbacks.ReduceLROnPlateau."""
    spec, rate = model.reduce_on_plateau, model.optimizer.learning_rate
    assert spec is not None
    ours, theirs = [], []
    for rows in curves(spec.monitor, spec.min_delta, 8 * (spec.patience + spec.cooldown + 2)):
        ours.append([rate * model.plateau_factor(rows[:epochs]) for epochs in range(1, len(rows) + 1)])
        callback = keras.callbacks.ReduceLROnPlateau(
            spec.monitor,
            spec.factor,
            spec.patience,
            mode=_mode(spec.monitor),
            min_delta=spec.min_delta,
            cooldown=spec.cooldown,
            min_lr=spec.min_rate,
        )
        theirs.append(_trained(callback, rows, rate)[1])
    return {"rates": np.array(ours)}, {"rates": np.array(theirs)}


def curves(monitor: Quantity, min_delta: float, epochs: int) -> list[list[dict[str, float]]]:
    """Random ones that get better by about ``min_delta`` now and then, and are worse in between."""
    generator, step = np.random.default_rng(0), max(min_delta, 1e-3)
    found = []
    for _ in range(CURVES):
        best, values = 0.5, []
        for _ in range(epochs):
            better = generator.random() < 0.2
            # Just below the step and just above it, as a share of the value, too.
            values.append(best - step * generator.uniform(0.2, 1.8) if better else best + 0.05 * generator.random())
            best = min(best, values[-1])
        found.append([{"epoch": epoch, monitor: _turned(value, monitor)} for epoch, value in enumerate(values, 1)])
    return found


def _turned(loss: float, monitor: Quantity) -> float:
    return loss if monitor == "val_loss" else 1 - loss


def _mode(monitor: Quantity) -> str:
    return "min" if monitor == "val_loss" else "max"


def _trained(callback: Any, rows: list[dict[str, float]], rate: float = 1.0) -> tuple[int, list[float]]:
    """After which epoch Keras stops, and the rate after each epoch, as ``model.fit`` would call its callback."""
    with keras_precision("float64"):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(np.float64(rate).item()), "mse")
        callback.set_model(model)
        callback.on_train_begin()
        rates: list[float] = []
        for row in rows:
            callback.on_epoch_end(row["epoch"] - 1, {callback.monitor: row[callback.monitor]})
            rates.append(float(model.optimizer.learning_rate))
            if model.stop_training:
                break
    return len(rates), rates
