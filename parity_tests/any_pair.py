"""A torch module and a Keras model of the same job, whoever wrote them: do they compute the same, and if not, where?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.training.kernels import OTHER_KERNELS
from parity_tests.distance import distance
from parity_tests.first_difference import AS_GIVEN, differing_layer, differing_weights
from parity_tests.frameworks import keras
from parity_tests.keras_copy import KerasCopy
from parity_tests.ladder import GATES, Gate, Rung, failed, verdict
from parity_tests.matched_pair import MatchedPair
from parity_tests.pair import Tensors, damped_scales, layers_before_norms, parameters, statistics
from parity_tests.torch_copy import TorchCopy

IMAGES = 16
"""Random ones, where none are given."""
SIZE = 64
"""Pixels a side, where the Keras model takes images of any size."""
STEPS = 3
_TRAINED = f"{STEPS} steps of SGD with momentum"
_MOVED = "batch norm statistics"
_GATES = {
    "output in evaluation": GATES["forward"],
    "loss": GATES["loss"],
    _MOVED: GATES[_MOVED],
    "gradients": GATES["gradients"],
    _TRAINED: GATES["sgd"],
}


@dataclass(frozen=True)
class PairReport:
    """What a comparison has found.

    Attributes:
        rungs: each a distance with its limit, float64.
        culprit: the first layer that parts, and how, in words; None where none does.
        notes: what was done to make the two comparable, each a sentence.
        layers: torch's names -> Keras's.
    """

    rungs: tuple[Rung, ...]
    culprit: str | None
    notes: tuple[str, ...]
    layers: Mapping[str, str]

    @property
    def passed(self) -> bool:
        return not failed(self.rungs)

    def __str__(self) -> str:
        lines = [
            f"{'passed' if rung.passed else 'FAILED'}  {rung.name}: {rung.measured:.1e}, limit {rung.limit:.1e}"
            for rung in self.rungs
        ]
        return "\n".join([*lines, *([f"first difference: {self.culprit}"] if self.culprit else []), *self.notes])


def compare_pair(
    torch_module: nn.Module,
    keras_model: keras.Model,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: Mapping[str, str] | None = None,
) -> PairReport:
    """Compare any torch module with any Keras model of the same job, in float64 on the CPU, without dropout.

    Layers are matched by shape and place. Weights that are not the same already are torch's in both. Neither the module
    nor the model changes.

    Args:
        torch_module: images (B, C, H, W) -> outputs (B, classes).
        keras_model: images (B, H, W, C) -> the same outputs; ``keras.Sequential`` or functional. Where it ends in a
            softmax and the module in logits, its logits are compared.
        images: (B, H, W, C), as both are fed; by default random ones.
        labels: (B,), whole numbers from 0; by default random ones.
        names: pairs of layers that cannot be told apart otherwise, torch's name -> Keras's.

    Raises:
        ExperimentError: a layer has no counterpart, is called twice, or cannot be measured in float64.
    """
    with keras.device("cpu"):
        images = _images(keras_model, images)
        ours = TorchCopy(torch_module)
        try:
            outputs = ours.twin().trace(images, training=False).result
        except RuntimeError as error:
            raise ExperimentError(
                f"the torch module does not take the Keras model's images, {images.shape[1:]}: {error}"
            ) from None
        if outputs.ndim != 2:
            raise ExperimentError(f"the torch module's outputs are {outputs.shape}, not (images, classes)")
        theirs = KerasCopy(keras_model, logits=not np.allclose(outputs.sum(1), 1))
        if labels is None:
            labels = np.random.default_rng(1).integers(0, outputs.shape[1], len(images))
        return compare_matched(MatchedPair(ours, theirs, images, np.asarray(labels, np.int64), names or {}))


def compare_matched(pair: MatchedPair, first: Sequence[Rung] = (), last: Sequence[Rung] = ()) -> PairReport:
    """Measure everything, between rungs that are measured already."""
    weights = list(_weights_as_given(pair))
    measured, unbiased = _measure(pair)
    rungs = [*first, *weights, *measured, *last]
    notes = [] if weights else ["the weights are not the same in both: compared with torch's"]
    if unbiased:
        notes.append(
            "PyTorch's batch norm keeps n/(n-1) times the variance of a batch, as it is defined there: compared "
            "without that factor"
        )
    culprit = None
    if failures := failed(rungs):
        culprit = (
            (differing_weights(pair) if failed(weights) else None)
            or differing_layer(pair, training=True, unbiased=unbiased)
            or differing_layer(pair, training=False, unbiased=unbiased)
            or f"{failures[0].name}: {failures[0].worst}"
        )
    return PairReport(tuple(rungs), culprit, tuple(notes), pair.names)


def _weights_as_given(pair: MatchedPair) -> Iterator[Rung]:
    """The weights of both as they came, where any are the same: a layer that was carried over wrongly shows here."""
    ours = pair.ours.tensors()
    telling = [name for name, value in ours.items() if value.ndim > 1 or np.ptp(value) > 0]
    if any(distance({name: ours[name]}, {name: pair.given[name]}).value <= AS_GIVEN for name in telling):
        yield verdict("weights as given", "float64", Gate(AS_GIVEN, AS_GIVEN), distance(ours, pair.given), None)


def _measure(pair: MatchedPair) -> tuple[list[Rung], bool]:
    """By both, and by other kernels of torch's as the control; and whether torch's variances have another factor."""
    ours, theirs = _measure_torch(pair), _measure_keras(pair)
    controls = []
    for kernels in OTHER_KERNELS:
        with kernels():
            controls.append(_measure_torch(pair))
    unbiased = False
    if moved := ours.get(_MOVED):
        without_factor = pair.without_factor(moved)
        unbiased = distance(theirs[_MOVED], without_factor).value < distance(theirs[_MOVED], moved).value
    if unbiased:
        for each in (ours, *controls):
            each[_MOVED] = pair.without_factor(each[_MOVED])
    norms = {name.rpartition(".")[0] for name in pair.given if name.endswith("running_var")}
    damped = layers_before_norms(list(pair.names), norms)
    rungs = []
    for name, found in ours.items():
        scales = damped_scales(found, damped) if name in ("gradients", _TRAINED) else None
        control = max(distance(found, each[name], scales).value for each in controls)
        rungs.append(verdict(name, "float64", _GATES[name], distance(found, theirs[name], scales), control))
    return rungs, unbiased


def _measure_torch(pair: MatchedPair) -> dict[str, Tensors]:
    found = {"output in evaluation": {"output": pair.ours.twin().trace(pair.images, training=False).result}}
    twin = pair.ours.twin()
    loss, gradients = twin.loss_and_gradients(pair.images, pair.labels, pair.smoothing)
    found |= {"loss": {"loss": loss}, _MOVED: statistics(twin.tensors()), "gradients": gradients}
    twin = pair.ours.twin()
    twin.train(pair.images, pair.labels, pair.smoothing, STEPS)
    return _that_has_tensors({**found, _TRAINED: parameters(twin.tensors())})


def _measure_keras(pair: MatchedPair) -> dict[str, Tensors]:
    found = {"output in evaluation": {"output": pair.theirs.trace(pair.images, training=False).result}}
    loss, gradients = pair.theirs.loss_and_gradients(pair.images, pair.labels, pair.smoothing)
    found |= {"loss": {"loss": loss}, _MOVED: statistics(pair.keras_tensors()), "gradients": gradients}
    pair.start()
    pair.theirs.train(pair.images, pair.labels, pair.smoothing, STEPS)
    trained = parameters(pair.keras_tensors())
    pair.start()
    return _that_has_tensors({**found, _TRAINED: trained})


def _that_has_tensors(measured: dict[str, Tensors]) -> dict[str, Tensors]:
    return {name: tensors for name, tensors in measured.items() if tensors}


def _images(model: keras.Model, images: np.ndarray | None) -> np.ndarray:
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] is None:
        raise ExperimentError(f"the Keras model's input is {shape}, not one image (batch, height, width, channels)")
    if images is None:
        size = tuple(SIZE if side is None else side for side in shape[1:3])
        return np.random.default_rng(0).standard_normal((IMAGES, *size, shape[3]))
    if images.ndim != 4 or any(
        side not in (None, given) for side, given in zip(shape[1:], images.shape[1:], strict=True)
    ):
        raise ExperimentError(f"images are {images.shape}, the Keras model takes {shape}")
    return np.asarray(images, np.float64)
