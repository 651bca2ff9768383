"""Which parts of an image speak for a class: Grad-CAM, by TensorFlow's gradient tape."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import keras
import numpy as np

from keras_reference.backend import Tensor
from keras_reference.blocks import layer_name
from keras_reference.transfer import Network


def last_convolution(network: Network) -> str | None:
    """Its name in the plan; None where there is none."""
    names = [name for name, layer in _steps(network) if isinstance(layer, keras.layers.Conv2D)]
    return names[-1] if names else None


def grad_cam(network: Network, images: np.ndarray, label: int, convolution: str) -> np.ndarray:
    """Of one image and one class, float (h, w), at least 0: Selvaraju et al. 2017, equations 1 and 2.

    Args:
        network: with its weights; it computes in inference mode.
        images: what it reads, (1, S, S, C).
        label: the class.
        convolution: whose output is weighted by the gradients of the class's logit.
    """
    tensorflow = importlib.import_module("tensorflow")
    steps = _steps(network)
    above = 1 + [name for name, _ in steps].index(convolution)
    maps = _run(steps[:above], keras.ops.convert_to_tensor(images))
    with tensorflow.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(maps)
        logit = _run(steps[above:], maps)[0, label]
    maps, gradients = (keras.ops.cast(each, keras.config.floatx()) for each in (maps, tape.gradient(logit, maps)))
    weights = keras.ops.mean(gradients, axis=(1, 2), keepdims=True)
    return keras.ops.convert_to_numpy(keras.ops.relu(keras.ops.sum(weights * maps, axis=-1)))[0]


def _run(steps: list[tuple[str, Callable[[Tensor], Tensor]]], hidden: Tensor) -> Tensor:
    for _, step in steps:
        hidden = step(hidden)
    return hidden


def _steps(network: Network) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """From the images to the logits, one after the other; layers have their names in the plan."""
    steps: list[tuple[str, Callable[[Tensor], Tensor]]] = []
    if (backbone := network.backbone) is not None:
        own = [(planned.name, layer) for planned, layer in zip(backbone.plan.layers, backbone.layers, strict=True)]
        steps = [("resize", backbone.resize), *own, ("pool", backbone.pool)]
    names = {layer_name(planned): planned.name for planned in network.plan.layers}
    head = [layer for layer in network.head.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [*steps, *((names.get(layer.name, layer.name), layer) for layer in head)]
