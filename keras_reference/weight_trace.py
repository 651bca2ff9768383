"""Keeping the trace of a training's weights, for twins."""

from __future__ import annotations

import keras

from keras_reference.backend import Logs
from keras_reference.transfer import Network
from keras_reference.weights import network_tensors
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.weight_trace import WeightTrace


class TraceWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the trace of a run in its folder; its place in the callbacks is before those that save checkpoints.

    Args:
        run: the folder.
        network: whose weights.
        steps: that are done.
    """

    def __init__(self, run: RunFolder, network: Network, steps: int) -> None:
        super().__init__()
        self.run = run
        self.network = network
        self.trace = WeightTrace()
        if steps:
            self.trace.resume(run, steps)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if int(self.model.optimizer.iterations) > len(self.trace.rows):  # and no gradients are being accumulated
            self.trace.add(network_tensors(self.network.tensors()))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.trace.write(self.run, last=network_tensors(self.network.tensors()))
