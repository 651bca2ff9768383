"""The exponential moving average of the weights, which is validated and tested in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_reference.backend import Logs


class ValidateAverage(keras.callbacks.Callback):  # type: ignore[misc]
    """keras.callbacks.SwapEMAWeights, which on TensorFlow swaps by additions, so that every swap rounds the weights."""

    def on_test_begin(self, logs: Logs = None) -> None:
        swap_average(self.model.optimizer)

    def on_test_end(self, logs: Logs = None) -> None:
        swap_average(self.model.optimizer)


def swap_average(optimizer: keras.optimizers.Optimizer) -> None:
    """Exchange the weights that an optimizer trains and their average, if it keeps one."""
    if optimizer.use_ema:
        for weight, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        ):
            value = keras.ops.convert_to_numpy(weight)
            weight.assign(average)
            average.assign(value)


@contextmanager
def averaged(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Within it, the weights are their average."""
    swap_average(optimizer)
    try:
        yield
    finally:
        swap_average(optimizer)
