"""Keras for the ladder, beside torch: it comes by way of ``keras_reference``, which holds the cure for their clash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_reference.backend import keras

__all__ = ["as_array", "gradients_of", "keras"]


def as_array(tensor: Any) -> np.ndarray:
    """Of the backend's tensor, on whichever device."""
    return keras.ops.convert_to_numpy(tensor)


def gradients_of(loss: Callable[[], Any], variables: Sequence[keras.Variable]) -> list[Any]:
    """Of a scalar that Keras computes, in the backend's own way."""
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = loss()
            return tape.gradient(value, [variable.value for variable in variables])
        case "torch":
            import torch

            return list(torch.autograd.grad(loss(), [variable.value for variable in variables]))
        case backend:
            assert backend == "jax"
            import jax

            def of(values: list[Any]) -> Any:
                with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                    return loss()

            return jax.grad(of)([variable.value for variable in variables])
