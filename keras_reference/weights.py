"""A Keras model's tensors to and from the neutral file's names and layouts, which are torch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_reference.blocks import layer_name
from lightning_vgg.experiment.network import Plan, Shape
from lightning_vgg.experiment.neutral import check_tensors, read_neutral
from lightning_vgg.experiment.recipe import BatchNorm, Conv, Dense

_KERNEL_AND_BIAS = {"weight": "kernel", "bias": "bias"}
_VARIABLES: dict[type, dict[str, str]] = {
    Conv: _KERNEL_AND_BIAS,
    Dense: _KERNEL_AND_BIAS,
    BatchNorm: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}
"""Layer -> the end of a tensor's neutral name -> the attribute of the Keras layer."""


def read_weights(model: keras.Model, plan: Plan) -> dict[str, np.ndarray]:
    """All tensors, copied, in the model's own dtype."""
    return {tensor.name: tensor.read() for tensor in _tensors(model, plan)}


def load_weights(model: keras.Model, plan: Plan, tensors: Mapping[str, np.ndarray]) -> None:
    """Assign all tensors.

    Raises:
        ExperimentError: one is missing, unknown or misshapen.
    """
    check_tensors("the tensors", tensors, _shapes(model, plan))
    for tensor in _tensors(model, plan):
        tensor.assign(tensors[tensor.name])


def load_file(model: keras.Model, plan: Plan, path: Path) -> None:
    """Start from a neutral file.

    Raises:
        ExperimentError: the file cannot be read or does not fit; every tensor at fault is named.
    """
    load_weights(model, plan, read_neutral(path, _shapes(model, plan)))


def _shapes(model: keras.Model, plan: Plan) -> dict[str, Shape]:
    return {name: tensor.shape for name, tensor in read_weights(model, plan).items()}


@dataclass(frozen=True)
class _Tensor:
    """One variable of the model and its neutral name; ``pixels`` where its first axis counts flattened pixels."""

    name: str
    variable: keras.Variable
    pixels: Shape | None

    def read(self) -> np.ndarray:
        value = np.array(keras.ops.convert_to_numpy(self.variable))
        if self.pixels is not None:
            value = reorder_flattened(value, self.pixels, to_keras=False)
        return swap_layout(value, to_keras=False)

    def assign(self, value: np.ndarray) -> None:
        value = swap_layout(value, to_keras=True)
        if self.pixels is not None:
            value = reorder_flattened(value, self.pixels, to_keras=True)
        self.variable.assign(value)


def swap_layout(tensor: np.ndarray, to_keras: bool) -> np.ndarray:
    """Kernels: (out, in, height, width) <-> (height, width, in, out), and (out, in) <-> (in, out)."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0) if to_keras else tensor.transpose(3, 2, 0, 1)
    return tensor.T


def reorder_flattened(tensor: np.ndarray, shape: Shape, to_keras: bool) -> np.ndarray:
    """Reorder the first axis, which counts the pixels of ``shape`` (H, W, C): as (C, H, W) <-> as (H, W, C)."""
    height, width, channels = shape
    if to_keras:
        pixels = tensor.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
    else:
        pixels = tensor.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
    return pixels.reshape(tensor.shape)


def _tensors(model: keras.Model, plan: Plan) -> Iterator[_Tensor]:
    flattened = flattened_layers(plan)
    for planned in plan.layers:
        layer = model.get_layer(layer_name(planned))
        for end, attribute in _VARIABLES.get(type(planned.layer), {}).items():
            variable = getattr(layer, attribute, None)
            if variable is None:  # a bias that the recipe leaves out
                continue
            # A dense layer's bias counts its outputs.
            counts_inputs = not (isinstance(planned.layer, Dense) and end == "bias")
            pixels = flattened.get(planned.name) if counts_inputs else None
            yield _Tensor(f"{planned.name}.{end}", variable, pixels)


def flattened_layers(plan: Plan) -> dict[str, Shape]:
    """The layers that see flattened pixels, up to the first dense one, and the (H, W, C) that were flattened."""
    shape = plan.input_shape
    layers: dict[str, Shape] = {}
    for planned in plan.layers:
        if len(planned.input_shape) == 1 and len(shape) == 3:
            layers[planned.name] = shape
            if isinstance(planned.layer, Dense):
                break
        else:
            shape = planned.output_shape
    return layers
