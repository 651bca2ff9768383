"""A Keras model as a copy in float64, without dropout, that shows what each layer does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from keras_reference.blocks import gelu
from keras_reference.weights import NeutralTensor
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.network_plan import Shape
from parity_tests.frameworks import keras
from parity_tests.matching import WeightedLayer
from parity_tests.pair import Tensors, keras_precision
from parity_tests.traces import MOMENTUM, RATE, Trace

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
            optimizer = keras.optimizers.SGD(RATE, MOMENTUM)
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
