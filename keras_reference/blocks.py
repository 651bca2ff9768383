"""Plan -> a Keras model. Images are NHWC; a layer's name is the plan's, with ``_`` for ``.``."""

from __future__ import annotations

import math

import keras

from lightning_vgg.experiment.network import Plan, PlannedLayer, Shape
from lightning_vgg.experiment.recipe import (
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    MaxPool,
)
from lightning_vgg.experiment.semantics import KERAS


def build_model(plan: Plan) -> keras.Model:
    """The network of a plan: images (B, S, S, C) -> logits (B, classes), freshly initialized.

    Its precision is that of ``keras.config.dtype_policy()``.
    """
    images = keras.Input(image_shape(plan), name="images")
    outputs = images
    for planned in plan.layers:
        if len(outputs.shape) == 4 and len(planned.input_shape) == 1:
            outputs = keras.layers.Flatten(name="flatten")(outputs)
        outputs = build_layer(planned)(outputs)
    return keras.Model(images, outputs)


def image_shape(plan: Plan) -> Shape:
    """(S, S, C) of the images that go in."""
    shape = plan.layers[0].input_shape
    if len(shape) == 3:
        return shape
    size = math.isqrt(shape[0] // 3)  # without convolutional blocks the plan begins behind the flatten
    return size, size, 3


def layer_name(planned: PlannedLayer) -> str:
    return planned.name.replace(".", "_")


def build_layer(planned: PlannedLayer) -> keras.layers.Layer:
    layers, name = keras.layers, layer_name(planned)
    match planned.layer:
        case Conv(kernel=kernel, stride=stride, activation=activation, bias=bias):
            return layers.Conv2D(
                planned.width, kernel, stride, padding="same", activation=_activation(activation), use_bias=bias,
                name=name,
            )  # fmt: skip
        case Dense(activation=activation, bias=bias):
            return layers.Dense(planned.width, activation=_activation(activation), use_bias=bias, name=name)
        case BatchNorm():
            return layers.BatchNormalization(
                momentum=KERAS.batch_norm_momentum, epsilon=KERAS.batch_norm_epsilon, name=name
            )
        case Dropout(rate=rate):
            return layers.Dropout(rate, name=name)
        case MaxPool(size=size, stride=stride):
            return layers.MaxPooling2D(size, stride, name=name)
        case AveragePool(size=size, stride=stride):
            return layers.AveragePooling2D(size, stride, name=name)
        case GlobalAveragePool():
            return layers.GlobalAveragePooling2D(name=name)
        case Activation(name=activation):
            return layers.Activation(_activation(activation), name=name)


def _activation(name: str) -> str:
    """Keras's name; its defaults are meant: a leaky ReLU's slope is 0.2, and GELU is the exact one."""
    return name.replace(" ", "_")
