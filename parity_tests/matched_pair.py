"""A torch module and a Keras model as copies with the same weights, each layer matched with its counterpart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.training.kernels import OTHER_KERNELS
from parity_tests.keras_copy import KerasCopy
from parity_tests.matching import match_layers
from parity_tests.pair import Tensors, flatten_as_keras
from parity_tests.torch_copy import TorchCopy
from parity_tests.traces import Trace


class MatchedPair:
    """Copies whose layers are matched, with torch's weights in both.

    Args:
        ours, theirs: with weights of their own.
        images: (B, H, W, C) float64.
        labels: (B,) int64.
        names: pairs of layers that are known, torch's name -> Keras's.
        smoothing: of the labels.

    Attributes:
        names: torch's names -> Keras's, in the order in which torch calls the layers.
        given: Keras's weights as they came, under torch's names and in its layouts.

    Raises:
        ExperimentError: a layer has no counterpart, or a model draws random numbers.
    """

    def __init__(
        self,
        ours: TorchCopy,
        theirs: KerasCopy,
        images: np.ndarray,
        labels: np.ndarray,
        names: Mapping[str, str],
        smoothing: float = 0.0,
    ) -> None:
        self.ours, self.theirs = ours, theirs
        self.images, self.labels, self.smoothing = images, labels, smoothing
        self.names = match_layers(ours.twin().layers(images), theirs.layers(images), names)
        theirs.rename(self.names)
        given = {name: np.array(tensor.variable) for name, tensor in theirs.tensors().items()}
        self.start()
        self._find_flattened()
        self.given = {name: replace(each, variable=given[name]).read() for name, each in theirs.tensors().items()}
        self._require_no_chance()

    def start(self) -> None:
        """Give Keras torch's weights."""
        ours = self.ours.tensors()
        for name, tensor in self.theirs.tensors().items():
            tensor.assign(ours[name])

    def keras_tensors(self) -> Tensors:
        """As they are now, under torch's names and in its layouts."""
        return {name: tensor.read() for name, tensor in self.theirs.tensors().items()}

    def traces(self, training: bool) -> list[Trace]:
        """torch's, by other kernels of torch's, and Keras's, in Keras's layout."""
        traces = [self.ours.twin().trace(self.images, training)]
        for kernels in OTHER_KERNELS:
            with kernels():
                traces.append(self.ours.twin().trace(self.images, training))
        theirs = self.theirs.trace(self.images, training)
        self.start()
        return [*map(self._as_keras_has_it, traces), theirs]

    def without_factor(self, statistics: Tensors) -> Tensors:
        """Running statistics as if torch took the variance of a batch as it is, and not n/(n-1) times as much."""
        before, inputs = self.ours.tensors(), self.ours.twin().trace(self.images, training=True).inputs
        found = dict(statistics)
        for name, value in statistics.items():
            layer, _, role = name.rpartition(".")
            momentum = getattr(self.ours.module.get_submodule(layer), "momentum", None)
            if role == "running_var" and momentum is not None:
                count = inputs[layer].size // inputs[layer].shape[-1]
                kept = (1 - momentum) * before[name]
                found[name] = kept + (value - kept) * (count - 1) / count
        return found

    def _find_flattened(self) -> None:
        """Which layers count flattened pixels as (C, H, W) in torch and as (H, W, C) in Keras: those whose inputs are
        nearer to each other so. From the images up, since a layer's order changes what comes after it.
        """
        for name in self.names:
            traces = self.ours.twin().trace(self.images, training=False), self.theirs.trace(self.images, training=False)
            ours, theirs = (trace.inputs[name] for trace in traces)
            pixels = traces[1].flattened.get(theirs.shape[-1])
            if theirs.ndim == 2 and pixels is not None and ours.shape == theirs.shape:
                turned = flatten_as_keras(ours, pixels)
                if np.abs(turned - theirs).mean() < np.abs(ours - theirs).mean():
                    self.theirs.pixels[name] = pixels
                    self.start()

    def _require_no_chance(self) -> None:
        """Raise ExperimentError if a model draws random numbers in training, other than by a layer of dropout."""

        def loss_of_ours() -> np.ndarray:
            return self.ours.twin().loss_and_gradients(self.images, self.labels, self.smoothing)[0]

        def loss_of_theirs() -> np.ndarray:
            loss, _ = self.theirs.loss_and_gradients(self.images, self.labels, self.smoothing)
            self.start()
            return loss

        for framework, loss in (("the torch module", loss_of_ours), ("the Keras model", loss_of_theirs)):
            if loss() != loss():
                raise ExperimentError(
                    f"{framework} draws random numbers in training, in other layers than dropout: leave those out"
                )

    def _as_keras_has_it(self, trace: Trace) -> Trace:
        """Flattened pixels in Keras's order."""
        inputs, outputs = dict(trace.inputs), dict(trace.outputs)
        for name, pixels in self.theirs.pixels.items():
            inputs[name] = flatten_as_keras(inputs[name], pixels)
            if outputs[name].shape == inputs[name].shape:
                outputs[name] = flatten_as_keras(outputs[name], pixels)
        return replace(trace, inputs=inputs, outputs=outputs)
