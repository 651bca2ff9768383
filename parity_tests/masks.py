"""Dropout with the same masks in both frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from lightning_vgg.experiment.network import Plan
from lightning_vgg.experiment.recipe import Dropout
from parity_tests.frameworks import keras


@contextmanager
def torch_masks(plan: Plan, batch: int) -> Iterator[None]:
    """Every ``nn.Dropout`` inside takes the next of :func:`draw_masks`."""
    masks = iter(draw_masks(plan, batch))

    def dropout(inputs: torch.Tensor, p: float, training: bool, inplace: bool = False) -> torch.Tensor:
        if p == 0:
            return inputs
        mask = torch.from_numpy(next(masks))
        return inputs * (mask.permute(0, 3, 1, 2) if mask.ndim == 4 else mask) / (1 - p)

    with mock.patch("torch.nn.functional.dropout", dropout):
        yield


@contextmanager
def keras_masks(plan: Plan, batch: int) -> Iterator[None]:
    """Every ``keras.layers.Dropout`` called inside takes the next of :func:`draw_masks`."""
    masks = iter(draw_masks(plan, batch))

    def dropout(inputs: Any, rate: float, **_: Any) -> Any:
        return inputs * keras.ops.cast(next(masks), inputs.dtype) / (1 - rate)

    with mock.patch("keras.src.backend.random.dropout", dropout):
        yield


def draw_masks(plan: Plan, batch: int) -> list[np.ndarray]:
    """0 or 1 for each value that each dropout layer sees, channels last, in the order of the layers."""
    generator = np.random.default_rng(0)
    return [
        (generator.random((batch, *planned.output_shape)) >= (planned.layer.rate or 0)).astype(np.float32)
        for planned in plan.layers
        if isinstance(planned.layer, Dropout) and planned.layer.rate
    ]


def torch_kept_values(plan: Plan) -> dict[str, np.ndarray]:
    """What torch's own dropout makes of a kept 1, for each layer."""
    return {
        f"{name} kept": torch.nn.functional.dropout(torch.ones(4096, dtype=torch.float64), rate, True).numpy().max()
        for name, rate in _rates(plan)
    }


def keras_kept_values(plan: Plan) -> dict[str, np.ndarray]:
    """What Keras's own dropout makes of a kept 1, for each layer."""
    return {
        f"{name} kept": np.asarray(keras.layers.Dropout(rate, dtype="float64")(np.ones(4096), training=True)).max()
        for name, rate in _rates(plan)
    }


def _rates(plan: Plan) -> list[tuple[str, float]]:
    return [
        (planned.name, planned.layer.rate)
        for planned in plan.layers
        if isinstance(planned.layer, Dropout) and planned.layer.rate
    ]
