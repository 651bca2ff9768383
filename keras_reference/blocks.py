"""NetworkPlan -> a Keras model. Images are NHWC; a layer's name is the plan's, with ``_`` for ``.``."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from keras_reference import dropout
from keras_reference.backend import Tensor
from lightning_vgg.experiment.network_plan import NetworkPlan, PlannedLayer
from lightning_vgg.experiment.recipe import (
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    SpatialDropout,
    ZeroPadding,
)
from lightning_vgg.experiment.semantics import KERAS, Semantics


def build_network(plan: NetworkPlan, semantics: Semantics = KERAS) -> keras.Model:
    """The network of a plan: images (B, S, S, C) -> logits (B, classes), freshly initialized.

    Its precision is that of ``keras.config.dtype_policy()``. Of the semantics, ``initialization`` alone is followed.
    """
    images = keras.Input(plan.input_shape, name="images")
    outputs = images
    for planned in plan.layers:
        if len(outputs.shape) == 4 and len(planned.input_shape) == 1:
            outputs = keras.layers.Flatten(name="flatten")(outputs)
        outputs = build_layer(planned, semantics)(outputs)
    return dropout.Classifier(images, outputs)


def layer_name(planned: PlannedLayer) -> str:
    return planned.name.replace(".", "_")


def build_layer(planned: PlannedLayer, semantics: Semantics) -> keras.layers.Layer:
    layers, name = keras.layers, layer_name(planned)
    match planned.layer:
        case Conv(kernel=kernel, stride=stride, activation=activation, bias=bias, padding=padding):
            return layers.Conv2D(
                planned.width,
                kernel,
                stride,
                padding=padding,
                activation=_activation(activation),
                use_bias=bias,
                name=name,
                **_weights(planned, semantics),
            )
        case Dense(activation=activation, bias=bias):
            weights = _weights(planned, semantics)
            return layers.Dense(planned.width, activation=_activation(activation), use_bias=bias, name=name, **weights)
        case BatchNorm(momentum=momentum, scale=scale, epsilon=epsilon, bias=bias):
            return layers.BatchNormalization(
                momentum=KERAS.batch_norm_momentum if momentum is None else momentum,
                epsilon=KERAS.batch_norm_epsilon if epsilon is None else epsilon,
                center=bias,
                scale=scale,
                name=name,
            )
        case Dropout(rate=rate):
            assert rate is not None  # the plan fills it in
            return dropout.Dropout(rate, planned.name, name)
        case SpatialDropout(rate=rate):
            assert rate is not None  # likewise
            return dropout.SpatialDropout(rate, planned.name, name)
        case MaxPool(size=size, stride=stride, padding=padding):
            return layers.MaxPooling2D(size, stride, padding, name=name)
        case AveragePool(size=size, stride=stride, padding=padding):
            return layers.AveragePooling2D(size, stride, padding, name=name)
        case GlobalAveragePool():
            return layers.GlobalAveragePooling2D(name=name)
        case GlobalMaxPool():
            return layers.GlobalMaxPooling2D(name=name)
        case ZeroPadding(pixels=pixels):
            return layers.ZeroPadding2D(pixels, name=name)
        case Activation(slope=float(slope)):
            return layers.LeakyReLU(slope, name=name)
        case Activation(name=activation):
            return layers.Activation(_activation(activation), name=name)


def _weights(planned: PlannedLayer, semantics: Semantics) -> dict[str, object]:
    """How kernel and bias of a convolution or dense layer are initialized, and the kernel regularized."""
    layer = planned.layer
    assert isinstance(layer, Conv | Dense)
    settings: dict[str, object] = {}
    if semantics.initialization == "kaiming_uniform":
        fan_in = planned.input_shape[-1] * (layer.kernel**2 if isinstance(layer, Conv) else 1)
        bound = 1 / math.sqrt(fan_in)
        for part in ("kernel", "bias"):
            settings[f"{part}_initializer"] = keras.initializers.RandomUniform(-bound, bound)
    if layer.initializer is not None:
        settings["kernel_initializer"] = layer.initializer.replace(" ", "_")
    if layer.l2:
        settings["kernel_regularizer"] = keras.regularizers.L2(layer.l2)
    return settings


def _activation(name: str) -> str | Callable[[Tensor], Tensor]:
    """Keras's name; its defaults are meant: a leaky ReLU's slope is 0.2."""
    return gelu if name == "gelu" else name.replace(" ", "_")


def gelu(inputs: Tensor) -> Tensor:
    """The exact GELU, ``keras.activations.gelu``; TensorFlow's rounds √2 to float32, also in float64."""
    root = keras.ops.sqrt(keras.ops.cast(2, inputs.dtype))
    return inputs * (1 + keras.ops.erf(inputs / root)) / 2
