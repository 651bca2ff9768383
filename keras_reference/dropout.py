"""Dropout whose masks are a function of seed, epoch, image, layer and unit, the same in both frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from keras_reference.backend import Tensor
from keras_reference.splitmix64 import mask_bits
from lightning_vgg.experiment.draws import layer_key, lowest_kept

_MASK_KEYS: ContextVar[Tensor | None] = ContextVar("mask_keys", default=None)


class Classifier(keras.Model):  # type: ignore[misc]
    """A functional model of images that also takes ``(images, mask_keys)``: then its dropout layers drop by the keys of
    the images, int32 (B, 2), two words of each; from images alone, as Keras drops.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.input_spec = None  # that of a functional model allows its own inputs alone

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Tensor:
        if not isinstance(inputs, tuple | list):
            return super().call(inputs, training, mask)
        images, mask_keys = inputs
        with drop_by(mask_keys):
            return super().call(images, training)


@contextmanager
def drop_by(mask_keys: Tensor) -> Iterator[None]:
    """Dropout layers called inside use the masks of these images."""
    before = _MASK_KEYS.set(mask_keys)
    try:
        yield
    finally:
        _MASK_KEYS.reset(before)


class Dropout(keras.layers.Dropout):  # type: ignore[misc]
    """``keras.layers.Dropout`` with the masks of :func:`lightning_vgg.experiment.draws.mask_bits`.

    Args:
        rate: share of the units that are dropped; all others are divided by ``1 - rate``.
        layer: its name in the plan, by which the masks of layers differ.
        name: Keras's.
    """

    def __init__(self, rate: float, layer: str, name: str) -> None:
        super().__init__(rate, name=name)
        self.layer = layer

    def units(self, inputs: Tensor) -> Tensor:
        """One number for each that is dropped or kept."""
        return inputs

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        mask_keys = _MASK_KEYS.get()
        if not training or not self.rate or mask_keys is None:
            return super().call(inputs, training)
        return inputs * kept(mask_keys, layer_key(self.layer), self.rate, self.units(inputs))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"rate": config["rate"], "layer": self.layer, "name": config["name"]}


class SpatialDropout(Dropout):
    """The same of whole channels of (B, H, W, C), as ``keras.layers.SpatialDropout2D``."""

    def __init__(self, rate: float, layer: str, name: str) -> None:
        super().__init__(rate, layer, name)
        self.noise_shape = (None, 1, 1, None)

    def units(self, inputs: Tensor) -> Tensor:
        return inputs[:, :1, :1, :]


def kept(mask_keys: Tensor, layer: int, rate: float, like: Tensor) -> Tensor:
    """0 for units that are dropped, else ``1 / (1 - rate)``.

    Args:
        mask_keys: of the images, int32 (B, 2).
        layer: the layer's key.
        rate: share that is dropped.
        like: the layer's input (B, H, W, C) or (B, features), whose shape and dtype the mask has.
    """
    shape = tuple(like.shape[1:])
    bits = mask_bits(mask_keys, layer, math.prod(shape))
    mask = ops.cast(bits >= lowest_kept(rate), like.dtype) * (1 / (1 - rate))
    return ops.reshape(mask, (-1, *shape))
