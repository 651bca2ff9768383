"""Our rules of patience beside those of both frameworks, on random curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_vgg.experiment.patience import EarlyStoppingSpec, PlateauSpec, plateau_factor, stopping_reason
from lightning_vgg.experiment.semantics import TORCH
from lightning_vgg.experiment.specs import ModelSpec, OptimizerSpec
from lightning_vgg.runs.best import Quantity
from parity_tests.distance import distance
from parity_tests.frameworks import keras
from parity_tests.pair import keras_precision
from parity_tests.patience import curves, plateau_rates, stopping_epochs

STOPPING = [
    EarlyStoppingSpec(),
    EarlyStoppingSpec("val_acc", 1),
    EarlyStoppingSpec("val_loss", 5, 0.01),
    EarlyStoppingSpec("val_acc", 2, 0.001),
]
PLATEAUS = [
    PlateauSpec(),
    PlateauSpec("val_acc", 0.5, 2, 0.001, 0, 0.0),
    PlateauSpec("val_loss", 0.5, 3, 0.01, 1, 1e-3),
    PlateauSpec("val_acc", 0.25, 0, 0.0, 4, 1e-4),
    PlateauSpec("val_loss", 0.1, 1, 0.02, 3, 0.0),
]


def end(spec: EarlyStoppingSpec, rows: Sequence[dict[str, float]]) -> int:
    """After which epoch our rule ends a training; 0 for never."""
    return next((epochs for epochs in range(1, len(rows) + 1) if stopping_reason(spec, rows[:epochs])), 0)


def rows_of(by: Quantity, values: Sequence[float]) -> list[dict[str, float]]:
    return [{"epoch": epoch, by: value} for epoch, value in enumerate(values, start=1)]


@pytest.mark.parametrize("spec", STOPPING)
def test_early_stopping_is_that_of_keras(spec: EarlyStoppingSpec) -> None:
    ours, theirs = stopping_epochs(spec)
    assert distance(ours, theirs).value == 0
    assert len(set(ours["epochs"])) > 1  # the curves are told apart


@pytest.mark.parametrize("spec", STOPPING)
def test_early_stopping_is_that_of_lightning(spec: EarlyStoppingSpec) -> None:
    for rows in curves(spec.monitor, spec.min_delta, 40):
        mode = "min" if spec.monitor == "val_loss" else "max"
        callback = EarlyStopping(spec.monitor, spec.min_delta, spec.patience, mode=mode)
        values = (torch.tensor(row[spec.monitor], dtype=torch.float64) for row in rows)
        stops = (epoch for epoch, value in enumerate(values, 1) if callback._evaluate_stopping_criteria(value)[0])
        assert end(spec, rows) == next(stops, 0)


def test_keras_in_its_usual_float32_does_not_see_an_improvement_below_its_rounding() -> None:
    """Its patience ends there; ours is in float64, whatever a training's precision."""
    values = [0.5, 0.5 - 1e-9, 0.5 - 2e-9]
    assert end(EarlyStoppingSpec(patience=2), rows_of("val_loss", values)) == 0
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    callback = keras.callbacks.EarlyStopping(patience=2, mode="min")
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_loss": value})
    assert model.stop_training


def test_a_value_that_is_not_a_number_is_no_improvement_and_every_number_improves_on_it() -> None:
    nan, inf = math.nan, math.inf
    assert end(EarlyStoppingSpec(patience=2), rows_of("val_loss", [nan, 3.0, nan, 4.0])) == 4
    assert end(EarlyStoppingSpec(patience=2), rows_of("val_loss", [inf, 3.0, 2.0, 1.0])) == 0


def test_epochs_without_validation_count_for_nothing() -> None:
    rows = rows_of("val_loss", [0.5, 0.6, 0.7])
    assert end(EarlyStoppingSpec(patience=2), [rows[0], {"epoch": 2}, rows[1], {"epoch": 4}, rows[2]]) == 5
    assert stopping_reason(EarlyStoppingSpec(), []) is None


@pytest.mark.parametrize("spec", PLATEAUS)
def test_reduce_on_plateau_is_that_of_keras(spec: PlateauSpec) -> None:
    ours, theirs = plateau_rates(ModelSpec(optimizer=OptimizerSpec(learning_rate=0.125), reduce_on_plateau=spec))
    assert distance(ours, theirs).value < 1e-12
    assert (ours["rates"] < 0.125).any()


@pytest.mark.parametrize("spec", PLATEAUS)
def test_reduce_on_plateau_is_that_of_torch(spec: PlateauSpec) -> None:
    rate, lowered = 0.125, False
    for rows in curves(spec.monitor, spec.min_delta, 60):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
        scheduler = ReduceLROnPlateau(
            optimizer,
            "min" if spec.monitor == "val_loss" else "max",
            spec.factor,
            spec.patience,
            spec.min_delta,
            cooldown=spec.cooldown,
            min_lr=spec.min_rate,
            eps=0.0,
        )
        for epoch, row in enumerate(rows, start=1):
            scheduler.step(row[spec.monitor])
            ours = rate * plateau_factor(spec, TORCH, rate, rows[:epoch])
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
            lowered |= ours < rate
    assert lowered


def test_the_plateau_factor_reaches_the_rates_of_every_group_in_keras() -> None:
    from keras_reference.optim import GroupedOptimizer, ParameterGroup, set_plateau_factor

    with keras_precision("float64"):
        variables = [keras.Variable(np.zeros(2), dtype="float64") for _ in range(2)]
        groups = [ParameterGroup(variables[:1]), ParameterGroup(variables[1:], 0.5)]
        optimizer = GroupedOptimizer(OptimizerSpec("sgd"), np.full(9, 0.25), None, groups, plateau=True)
        for factor in (1.0, 0.1):
            set_plateau_factor(optimizer, factor)
            before = [np.asarray(variable) for variable in variables]
            optimizer.apply([keras.ops.ones(2, "float64")] * 2, variables)
            moved = [now - then for now, then in zip(map(np.asarray, variables), before, strict=True)]
            np.testing.assert_allclose(moved, [[-0.25 * factor] * 2, [-0.125 * factor] * 2], rtol=1e-13)


def test_an_optimizer_of_groups_clips_accumulates_and_averages_like_one_of_all() -> None:
    from keras_reference.averaging import averaged
    from keras_reference.optim import GroupedOptimizer, ParameterGroup, build_optimizer

    found = []
    gradients = np.random.default_rng(0).normal(size=(6, 2, 3))
    with keras_precision("float64"):
        for grouped in (True, False):
            variables = [keras.Variable(np.ones(3), dtype="float64") for _ in range(2)]
            spec, rates, clip = OptimizerSpec("adam"), np.linspace(0.1, 0.3, 3), 0.5
            if grouped:
                groups = [ParameterGroup(variables[:1]), ParameterGroup(variables[1:])]
                optimizer = GroupedOptimizer(spec, rates, clip, groups, batches=2)
            else:
                optimizer = build_optimizer(spec, rates, clip, variables, batches=2)
            for of_batch in gradients:
                optimizer.apply([keras.ops.convert_to_tensor(each) for each in of_batch], variables)
            assert int(optimizer.iterations) == 3
            found.append([np.asarray(variable) for variable in variables])
            averaging = replace(spec, ema=0.75)
            if grouped:
                optimizer = GroupedOptimizer(averaging, rates, clip, groups)
            else:
                optimizer = build_optimizer(averaging, rates, clip, variables)
            for of_batch in gradients[:3]:
                optimizer.apply([keras.ops.convert_to_tensor(each) for each in of_batch], variables)
            trained = [np.asarray(variable) for variable in variables]
            with averaged(optimizer):
                found[-1] += [np.asarray(variable) for variable in variables]
            np.testing.assert_array_equal([np.asarray(variable) for variable in variables], trained)
    np.testing.assert_allclose(*found, rtol=1e-12)
