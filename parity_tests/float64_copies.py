"""A user's torch module and Keras model as copies in float64, without dropout, that show what each layer does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from keras_reference.blocks import gelu
from keras_reference.weights import NeutralTensor
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.network_plan import Shape
from parity_tests.frameworks import keras
from parity_tests.matching import WeightedLayer
from parity_tests.pair import Tensors, keras_precision

_TORCH_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_ROLES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Keras's name of a variable -> torch's."""
_RATE, _MOMENTUM = 2.0**-7, 0.875
"""Of the steps: numbers that are exact in every precision."""


@dataclass
class Trace:
    """What one forward pass brings to each layer with weights, channels last.

    Attributes:
        inputs: in the order of the calls.
        outputs: before the activation that belongs to the layer.
        flattened: number of features -> the pixels (H, W, C) that were flattened into so many, the last ones.
        result: of the whole network.
    """

    inputs: Tensors = field(default_factory=dict)
    outputs: Tensors = field(default_factory=dict)
    flattened: dict[int, Shape] = field(default_factory=dict)
    result: np.ndarray = field(default_factory=lambda: np.empty(0))


class TorchCopy:
    """Of a torch module, on the CPU.

    Args:
        module: images (B, C, H, W) -> outputs; stays as it is.
        penalty: what its training loss has beside the cross-entropy.
    """

    def __init__(self, module: nn.Module, penalty: Callable[[nn.Module], torch.Tensor | float] | None = None) -> None:
        self.module = deepcopy(module).cpu().double().requires_grad_(True)
        self.penalty = penalty
        for each in self.module.modules():
            if isinstance(each, _TORCH_DROPOUTS):
                each.p = 0.0

    def twin(self) -> TorchCopy:
        return TorchCopy(self.module, self.penalty)

    def layers(self, images: np.ndarray) -> list[WeightedLayer]:
        """Those with weights, in the order of their calls.

        Raises:
            ExperimentError: one is called twice, or not at all.
        """
        made_by: dict[Any, str] = {}
        before: dict[str, frozenset[str]] = {}

        def enter(name: str, inputs: torch.Tensor) -> None:
            if name in before:
                raise ExperimentError(
                    f"torch's layer {name} is called twice: only layers that are called once are known"
                )
            before[name] = frozenset(_nearest(inputs.grad_fn, made_by))

        def leave(name: str, outputs: torch.Tensor) -> None:
            made_by[outputs.grad_fn] = name

        with self._hooked(enter, leave):
            self.module.eval()(_nchw(images).requires_grad_())
        if idle := [name for name in self._weighted() if name not in before]:
            raise ExperimentError(f"torch's layer {idle[0]} has weights, but is not called")
        tensors = self.tensors()
        return [
            WeightedLayer(name, {role: tensors[f"{name}.{role}"] for role in self._roles(name)}, around)
            for name, around in before.items()
        ]

    def tensors(self) -> Tensors:
        return {
            f"{name}.{role}": module.state_dict()[role].numpy().copy()
            for name, module in self._weighted().items()
            for role in self._roles(name)
        }

    def trace(self, images: np.ndarray, training: bool) -> Trace:
        """Statistics of batch norm move in training."""
        found = Trace()

        def enter(name: str, inputs: torch.Tensor) -> None:
            found.inputs[name] = _channels_last(inputs)

        def leave(name: str, outputs: torch.Tensor) -> None:
            found.outputs[name] = _channels_last(outputs)

        with self._hooked(enter, leave), torch.no_grad():
            found.result = _channels_last(self.module.train(training)(_nchw(images)))
        return found

    def loss_and_gradients(
        self, images: np.ndarray, labels: np.ndarray, smoothing: float
    ) -> tuple[np.ndarray, Tensors]:
        """The training loss, in training mode; the statistics move."""
        self.module.zero_grad()
        loss = self._loss(images, labels, smoothing)
        loss.backward()
        gradients = {
            f"{name}.{role}": parameter.grad.numpy().copy()
            for name, module in self._weighted().items()
            for role, parameter in module.named_parameters(recurse=False)
            if parameter.grad is not None
        }
        return loss.detach().numpy(), gradients

    def train(self, images: np.ndarray, labels: np.ndarray, smoothing: float, steps: int) -> None:
        """By SGD with momentum."""
        optimizer = torch.optim.SGD(self.module.parameters(), _RATE, _MOMENTUM)
        for _ in range(steps):
            optimizer.zero_grad()
            self._loss(images, labels, smoothing).backward()
            optimizer.step()

    def _loss(self, images: np.ndarray, labels: np.ndarray, smoothing: float) -> torch.Tensor:
        outputs = self.module.train()(_nchw(images))
        loss = nn.functional.cross_entropy(outputs, torch.from_numpy(labels), label_smoothing=smoothing)
        return loss + self.penalty(self.module) if self.penalty else loss

    def _weighted(self) -> dict[str, nn.Module]:
        return {name: module for name, module in self.module.named_modules() if self._own(module)}

    def _roles(self, name: str) -> list[str]:
        return self._own(self.module.get_submodule(name))

    @staticmethod
    def _own(module: nn.Module) -> list[str]:
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        return [role for role, tensor in tensors if tensor.is_floating_point()]

    @contextmanager
    def _hooked(
        self, enter: Callable[[str, torch.Tensor], None], leave: Callable[[str, torch.Tensor], None]
    ) -> Iterator[None]:
        hooks = []
        for name, module in self._weighted().items():
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=name: enter(name, inputs[0])))
            activation = getattr(module, "activation", None)
            if isinstance(activation, nn.Module):
                hooks.append(activation.register_forward_pre_hook(lambda _, inputs, name=name: leave(name, inputs[0])))
            else:
                hooks.append(module.register_forward_hook(lambda _, inputs, outputs, name=name: leave(name, outputs)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class KerasCopy:
    """Of a Keras model.

    Args:
        model: images (B, H, W, C) -> outputs; stays as it is.
        logits: whether a softmax at its end is left out.
        penalized: whether its regularizers are part of the training loss.

    Raises:
        ExperimentError: it is a subclass of keras.Model, whose layers cannot be had in another precision, or holds
            layers that Keras cannot rebuild from their settings.
    """

    def __init__(self, model: keras.Model, logits: bool = True, penalized: bool = False) -> None:
        self.penalized = penalized
        self.model = _in_float64(model)
        self.names: dict[str, str] = {}
        self.leaves = dict(_leaves(self.model))
        self.pixels: dict[str, Shape] = {}
        self._trace: Trace | None = None
        for layer, (_, original) in zip(self.leaves.values(), _leaves(model), strict=True):
            _without_chance(layer, original)
        last = [*self.leaves.values()][-1]
        if logits and isinstance(last, keras.layers.Softmax):
            last.call = lambda inputs, *args, **kwargs: inputs
        elif logits and _activation(last) == "softmax":
            last.activation = keras.activations.linear
        for name, layer in self.leaves.items():
            self._watch(name, layer)

    def layers(self, images: np.ndarray) -> list[WeightedLayer]:
        """Those with weights, in the order of their calls."""
        order = list(self.trace(images, training=False).inputs)
        ids = {name: id(self.leaves[name]) for name in order}
        before = _neighbours(self.model, set(ids.values()))
        if before is None and _is_chain(self.model):
            before = {ids[name]: frozenset({ids[other]}) for other, name in pairwise(order)} | {
                ids[order[0]]: frozenset()
            }
        names = {number: name for name, number in ids.items()}
        found = []
        for name in order:
            tensors = {each.name.rpartition(".")[2]: each.read() for each in self._own(name, name)}
            places = None if before is None else frozenset(names[number] for number in before[ids[name]])
            found.append(WeightedLayer(name, tensors, places))
        return found

    def rename(self, names: Mapping[str, str]) -> None:
        """From here on layers are called as their counterparts in torch; ``names``: torch's -> Keras's."""
        self.names = {theirs: ours for ours, theirs in names.items()}

    def tensors(self) -> dict[str, NeutralTensor]:
        found = [each for name in self.leaves for each in self._own(name, self.names.get(name, name))]
        return {each.name: each for each in found}

    def trace(self, images: np.ndarray, training: bool) -> Trace:
        """Statistics of batch norm move in training."""
        self._trace = Trace()
        try:
            result = np.asarray(self.model(images, training=training))
            return replace(self._trace, result=result)
        finally:
            self._trace = None

    def loss_and_gradients(
        self, images: np.ndarray, labels: np.ndarray, smoothing: float
    ) -> tuple[np.ndarray, Tensors]:
        """The training loss, in training mode; the statistics move."""
        import tensorflow as tf

        tensors = {name: tensor for name, tensor in self.tensors().items() if "running_" not in name}
        with tf.GradientTape() as tape:
            loss = self._loss(images, labels, smoothing)
        gradients = tape.gradient(loss, [tensor.variable.value for tensor in tensors.values()])
        found = zip(tensors.items(), gradients, strict=True)
        return np.asarray(loss), {name: replace(tensor, variable=value).read() for (name, tensor), value in found}

    def train(self, images: np.ndarray, labels: np.ndarray, smoothing: float, steps: int) -> None:
        """By SGD with momentum."""
        import tensorflow as tf

        variables = self.model.trainable_variables
        with keras_precision("float64"):
            optimizer = keras.optimizers.SGD(_RATE, _MOMENTUM)
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = self._loss(images, labels, smoothing)
            optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)

    def _loss(self, images: np.ndarray, labels: np.ndarray, smoothing: float) -> Any:
        with keras_precision("float64"):
            outputs = self.model(images, training=True)
            one_hot = np.eye(outputs.shape[-1])[labels]
            loss_function = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
            loss = loss_function(one_hot, outputs)
            return sum(self.model.losses, loss) if self.penalized else loss

    def _own(self, layer: str, name: str) -> Iterator[NeutralTensor]:
        dense = isinstance(self.leaves[layer], keras.layers.Dense)
        for variable in self._variables(layer):
            role = _ROLES.get(variable.name, variable.name)
            pixels = None if dense and role == "bias" else self.pixels.get(name)
            kind = DepthwiseKernel if variable.name == "kernel" and _is_depthwise(self.leaves[layer]) else NeutralTensor
            yield kind(f"{name}.{role}", variable, pixels)

    def _variables(self, layer: str) -> list[keras.Variable]:
        """Those that belong to the network, and not to its preprocessing."""
        return [] if isinstance(self.leaves[layer], keras.layers.Normalization) else self.leaves[layer].weights

    def _watch(self, name: str, layer: keras.layers.Layer) -> None:
        call, activation, weighted = layer.call, getattr(layer, "activation", None), bool(self._variables(name))

        def watched(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = call(inputs, *args, **kwargs)
            if self._trace is not None:
                if weighted:
                    own = self.names.get(name, name)
                    if own in self._trace.inputs:
                        raise ExperimentError(
                            f"Keras's layer {name} is called twice: only layers that are called once are known"
                        )
                    self._trace.inputs[own] = np.asarray(inputs)
                    self._trace.outputs.setdefault(own, np.asarray(outputs))
                elif isinstance(layer, keras.layers.Flatten | keras.layers.Reshape) and len(inputs.shape) == 4:
                    self._trace.flattened[math.prod(inputs.shape[1:])] = tuple(inputs.shape[1:])
            return outputs

        def watched_activation(inputs: Any) -> Any:
            if self._trace is not None:
                self._trace.outputs[self.names.get(name, name)] = np.asarray(inputs)
            return activation(inputs)

        layer.call = watched
        if weighted and activation is not None:
            layer.activation = watched_activation


class DepthwiseKernel(NeutralTensor):
    """Keras's (height, width, channels, multiplier), torch's (channels · multiplier, 1, height, width)."""

    def read(self) -> np.ndarray:
        value = np.array(keras.ops.convert_to_numpy(self.variable))
        return value.transpose(2, 3, 0, 1).reshape(-1, 1, *value.shape[:2])

    def assign(self, value: np.ndarray) -> None:
        height, width, channels, multiplier = self.variable.shape
        self.variable.assign(value.reshape(channels, multiplier, height, width).transpose(2, 3, 0, 1))


def _is_depthwise(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.DepthwiseConv2D)


def _nearest(node: Any, made_by: Mapping[Any, str]) -> set[str]:
    """The layers that made what a node of the autograd graph is computed from, with no other of them in between."""
    found, seen, waiting = set(), set(), [node]
    while waiting:
        node = waiting.pop()
        if node in made_by:
            found.add(made_by[node])
        elif node is not None and node not in seen:
            seen.add(node)
            waiting += [below for below, _ in node.next_functions]
    return found


def _is_chain(model: keras.Model) -> bool:
    return isinstance(model, keras.Sequential) and all(
        _is_chain(layer) for layer in model.layers if isinstance(layer, keras.Model)
    )


def _neighbours(model: keras.Model, weighted: set[int]) -> dict[int, frozenset[int]] | None:
    """id of a layer with weights -> of those whose output reaches it with none in between; None: with models within
    the model, whose graph Keras does not show.
    """
    operations = [] if isinstance(model, keras.Sequential) else model.operations
    if not operations or any(isinstance(operation, keras.Model) for operation in operations):
        return None
    maker = {id(output): operation for operation in operations for output in _listed(operation.output)}

    def above(operation: Any) -> frozenset[int]:
        found: set[int] = set()
        for tensor in _listed(operation.input):
            below = maker.get(id(tensor))
            if below is not None and below is not operation:
                found |= {id(below)} if id(below) in weighted else above(below)
        return frozenset(found)

    return {id(operation): above(operation) for operation in operations if id(operation) in weighted}


def _listed(tensors: Any) -> list[Any]:
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


def _in_float64(model: keras.Model) -> keras.Model:
    kind = keras.Sequential if isinstance(model, keras.Sequential) else keras.Model
    if kind is keras.Model and not hasattr(model, "operations"):
        raise ExperimentError(
            f"model {model.name!r} is a subclass of keras.Model, which cannot be rebuilt in float64: rebuild it with "
            "keras.Sequential or the functional API"
        )
    if not model.built:
        raise ExperimentError(f"model {model.name!r} is not built: give it a keras.Input")
    try:
        with keras_precision("float64"):
            copy = kind.from_config(_float64_config(model.get_config()))
            copy.set_weights(model.get_weights())
            copy.trainable = True  # whether it is frozen is a matter of its training
    except Exception as error:  # of a layer of the user's own Keras raises anything
        reason = str(error).strip().split("\n")[0]
        raise ExperimentError(
            f"model {model.name!r} cannot be rebuilt in float64: {reason}; register layers of your own with "
            "keras.saving.register_keras_serializable"
        ) from None
    return copy


def _float64_config(config: Any, key: str = "") -> Any:
    """Settings of layers with every float type that is named in them replaced."""
    if isinstance(config, Mapping):
        if key == "dtype" and config.get("class_name") == "DTypePolicy":
            return "float64"
        return {name: _float64_config(value, name) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [_float64_config(value) for value in config]
    is_float = key == "dtype" and isinstance(config, str) and "float" in config
    return "float64" if is_float else config


def _leaves(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers under their paths, those of models within the model, too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, f"{prefix}{layer.name}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield f"{prefix}{layer.name}", layer


def _without_chance(layer: keras.layers.Layer, original: keras.layers.Layer) -> None:
    """Switch dropout off, and give constants all their digits: bare numbers TensorFlow rounds to float32."""
    for attribute in ("rate", "stddev"):
        if isinstance(getattr(layer, attribute, None), float | int):
            setattr(layer, attribute, 0.0)
    match layer:
        case keras.layers.Rescaling():
            layer.scale, layer.offset = np.float64(original.scale), np.float64(original.offset)
        case keras.layers.Normalization():
            layer.mean, layer.variance = (
                keras.ops.convert_to_tensor(np.asarray(value, np.float64))
                for value in (original.mean, original.variance)
            )
    if _activation(layer) == "gelu":
        layer.activation = gelu


def _activation(layer: keras.layers.Layer) -> str:
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _channels_last(values: torch.Tensor) -> np.ndarray:
    copied = values.detach().numpy().copy()
    return np.moveaxis(copied, 1, -1) if copied.ndim == 4 else copied
