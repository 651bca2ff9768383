"""Dropout with the same masks in both frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.recipe import Dropout
from parity_tests.frameworks import keras


@contextmanager
def torch_masks(plan: NetworkPlan, batch: int) -> Iterator[None]:
    """Every dropout layer inside takes the next of :func:`draw_masks`."""
    masks = iter(draw_masks(plan, batch))

    def drop(inputs: torch.Tensor, rate: float) -> torch.Tensor:
        mask = torch.from_numpy(next(masks))
        return inputs * (mask.permute(0, 3, 1, 2) if mask.ndim == 4 else mask) / (1 - rate)

    with mock.patch("lightning_vgg.training.dropout.drop", drop):
        yield


@contextmanager
def keras_masks(plan: NetworkPlan, batch: int) -> Iterator[None]:
    """Every ``keras.layers.Dropout`` called inside takes the next of :func:`draw_masks`."""
    masks = iter(draw_masks(plan, batch))

    def dropout(inputs: Any, rate: float, **_: Any) -> Any:
        return inputs * keras.ops.cast(next(masks), inputs.dtype) / (1 - rate)

    with mock.patch("keras.src.backend.random.dropout", dropout):
        yield


def draw_masks(plan: NetworkPlan, batch: int) -> list[np.ndarray]:
    """0 or 1 for each value that each dropout layer sees, channels last, in the order of the layers."""
    generator = np.random.default_rng(0)
    return [
        (generator.random((batch, *planned.output_shape)) >= (planned.layer.rate or 0)).astype(np.float32)
        for planned in plan.layers
        if isinstance(planned.layer, Dropout) and planned.layer.rate
    ]


def torch_kept_values(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """What each dropout layer of a torch network makes of a kept 1."""
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Dropout) and layer.p]
    return {
        f"dropout {number} keeps 1 as": layer.train()(torch.ones(4096, dtype=torch.float64)).numpy().max()
        for number, layer in enumerate(layers)
    }


def keras_kept_values(model: Any) -> dict[str, np.ndarray]:
    """What each dropout layer of a Keras model makes of a kept 1."""
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout) and layer.rate]
    return {
        f"dropout {number} keeps 1 as": np.asarray(layer(np.ones(4096), training=True)).max()
        for number, layer in enumerate(layers)
    }
