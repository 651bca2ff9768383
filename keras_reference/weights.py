"""A Keras model's tensors to and from the neutral file's names and layouts, which are torch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_reference.blocks import layer_name
from lightning_vgg.experiment.network_plan import NetworkPlan, PlannedLayer, Shape
from lightning_vgg.experiment.recipe import BatchNorm, Conv, Dense
from lightning_vgg.weights.neutral import check_tensors, read_safetensors

Tensors = dict[str, np.ndarray]

_KERNEL_AND_BIAS = {"weight": "kernel", "bias": "bias"}
_VARIABLES: dict[type, dict[str, str]] = {
    Conv: _KERNEL_AND_BIAS,
    Dense: _KERNEL_AND_BIAS,
    BatchNorm: {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
}
"""Layer -> the end of a tensor's neutral name -> the attribute of the Keras layer."""


def network_tensors(tensors: Iterable[NeutralTensor]) -> Tensors:
    """Their values, copied, by name, in the model's own dtype."""
    return {tensor.name: tensor.read() for tensor in tensors}


def load_network(tensors: Iterable[NeutralTensor], path: Path) -> None:
    """Start from the tensors of a neutral file.

    Raises:
        ExperimentError: the file cannot be read or does not fit; every tensor at fault is named.
    """
    load_tensors(str(path), tensors, read_safetensors(path, "model.init_from"))


def load_tensors(source: str, tensors: Iterable[NeutralTensor], values: Mapping[str, np.ndarray]) -> None:
    """Assign the values.

    Raises:
        ExperimentError: one is missing, unknown, misshapen or not finite; ``source`` says whose.
    """
    tensors = list(tensors)
    check_tensors(source, values, {tensor.name: tensor.read().shape for tensor in tensors})
    for tensor in tensors:
        tensor.assign(values[tensor.name])


@dataclass(frozen=True)
class NeutralTensor:
    """One variable of a model and its neutral name.

    Attributes:
        name: in the neutral file.
        variable: the model's own.
        pixels: where its first axis counts flattened pixels, their (H, W, C).
        bgr: whether the channels that it reads are blue, green, red; in the neutral file they never are.
    """

    name: str
    variable: keras.Variable
    pixels: Shape | None = None
    bgr: bool = False

    def read(self) -> np.ndarray:
        value = np.array(keras.ops.convert_to_numpy(self.variable))
        if self.pixels is not None:
            value = reorder_flattened(value, self.pixels, to_keras=False)
        value = swap_layout(value, to_keras=False)
        return value[:, ::-1] if self.bgr else value

    def assign(self, value: np.ndarray) -> None:
        value = swap_layout(value[:, ::-1] if self.bgr else value, to_keras=True)
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


def model_tensors(model: keras.Model, plan: NetworkPlan) -> Iterator[NeutralTensor]:
    """The variables of a plan's model."""
    return plan_tensors(plan, [model.get_layer(layer_name(planned)) for planned in plan.layers])


def plan_tensors(plan: NetworkPlan, layers: Iterable[keras.layers.Layer]) -> Iterator[NeutralTensor]:
    """The variables of Keras layers, one for each of the plan's."""
    flattened = plan.flattened_layers()
    for planned, layer in zip(plan.layers, layers, strict=True):
        for end, variable in layer_variables(planned, layer):
            # A dense layer's bias counts its outputs.
            counts_inputs = not (isinstance(planned.layer, Dense) and end == "bias")
            pixels = flattened.get(planned.name) if counts_inputs else None
            yield NeutralTensor(f"{planned.name}.{end}", variable, pixels)


def layer_variables(planned: PlannedLayer, layer: keras.layers.Layer) -> Iterator[tuple[str, keras.Variable]]:
    """The end of each tensor's neutral name (``weight``, ``bias``, ...) and the layer's variable."""
    for end, attribute in _VARIABLES.get(type(planned.layer), {}).items():
        variable = getattr(layer, attribute, None)
        if variable is not None:  # a bias that the recipe leaves out
            yield end, variable
