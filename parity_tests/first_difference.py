"""The first layer at which a torch module and a Keras model part, and how, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity_tests.distance import distance
from parity_tests.frameworks import keras
from parity_tests.ladder import GATES, MARGIN
from parity_tests.matched_pair import MatchedPair
from parity_tests.pair import statistics
from parity_tests.relation import SAME, of_statistics, relation

AS_GIVEN = 1e-6
"""Weights that were carried over in float32 differ by less."""
_ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "softmax")
"""That may have been forgotten on one side."""
_STATISTICS = {"running_mean": "running mean", "running_var": "running variance"}


def differing_weights(pair: MatchedPair) -> str | None:
    """Of the weights as they came."""
    ours = pair.ours.tensors()
    wrong = [name for name in ours if distance({name: ours[name]}, {name: pair.given[name]}).value > AS_GIVEN]
    if not wrong:
        return None
    layer, _, role = wrong[0].rpartition(".")
    words = relation(ours[wrong[0]], pair.given[wrong[0]], {})
    if layer in pair.theirs.pixels and "another order" in words:
        height, width, channels = pair.theirs.pixels[layer]
        words += (
            f": Keras flattens pixels as {height} x {width} x {channels}, torch as {channels} x {height} x {width}, so "
            "the rows of the kernel have to be reordered"
        )
    return f"{_called(pair, layer)}: {role} as given: {words}"


def differing_layer(pair: MatchedPair, training: bool, unbiased: bool) -> str | None:
    """From the images up, the first whose input, output or statistics are not the same in both.

    Args:
        pair: with the same weights.
        training: the mode.
        unbiased: whether torch's running variances are n/(n-1) times as large by definition.
    """
    traces = pair.traces(training)
    moved = _differing_statistics(pair, unbiased) if training else {}
    last = None
    for name in pair.names:
        inputs, outputs = ([getattr(trace, kind)[name] for trace in traces] for kind in ("inputs", "outputs"))
        # Of another shape where only one side pads before the layer; then its output tells.
        if inputs[0].shape == inputs[-1].shape and _parted(inputs):
            place = (
                f"between {_called(pair, last)} and {_called(pair, name)}" if last else f"before {_called(pair, name)}"
            )
            return f"{place}: {_in_words(inputs[0], inputs[-1])}"
        if _parted(outputs):
            return f"{_called(pair, name)}: output {_in_words(outputs[0], outputs[-1])}{_hint(pair, name)}"
        if name in moved:
            return f"{_called(pair, name)}: {moved[name]}"
        last = name
    if last and _parted([trace.result for trace in traces]):
        return f"after {_called(pair, last)}: {_in_words(traces[0].result, traces[-1].result)}"
    return None


def _differing_statistics(pair: MatchedPair, unbiased: bool) -> dict[str, str]:
    """Layer -> which of its running statistics differs after one pass in training mode, and how."""
    twin, before = pair.ours.twin(), pair.ours.tensors()
    twin.trace(pair.images, training=True)
    ours = statistics(twin.tensors())
    ours = pair.without_factor(ours) if unbiased else ours
    pair.theirs.trace(pair.images, training=True)
    theirs = statistics(pair.keras_tensors())
    pair.start()
    found: dict[str, str] = {}
    for name, value in ours.items():
        layer, _, role = name.rpartition(".")
        if layer not in found and _parted([value, theirs[name]], GATES["batch norm statistics"].float64):
            kept = float(pair.theirs.leaves[pair.names[layer]].momentum)
            found[layer] = f"{_STATISTICS[role]}: {of_statistics(before[name], value, theirs[name], kept, {})}"
    return found


def _called(pair: MatchedPair, name: str) -> str:
    return f"{name} ({pair.names[name]} in Keras)"


def _hint(pair: MatchedPair, name: str) -> str:
    """What often sets a convolution apart."""
    layer = pair.theirs.leaves[pair.names[name]]
    if getattr(layer, "padding", None) == "same" and np.max(getattr(layer, "strides", 1)) > 1:
        return (
            "; with strides Keras's 'same' pads one side more than the other: pad so in torch by nn.ZeroPad2d, or use "
            "ZeroPadding2D and padding='valid' in Keras"
        )
    return ""


def _parted(values: Sequence[np.ndarray], limit: float = GATES["forward"].float64) -> bool:
    """Whether the last, Keras's, lies farther from the first, torch's, than rounding takes the others."""
    ours, *others, theirs = values
    control = max((distance({"": ours}, {"": other}).value for other in others), default=0.0)
    return distance({"": ours}, {"": theirs}).value > max(limit, MARGIN * control)


def _in_words(ours: np.ndarray, theirs: np.ndarray) -> str:
    """How two outputs are related, and whether an activation would make one of the other."""
    if ours.shape != theirs.shape:
        return f"has the shape {ours.shape} in torch and {theirs.shape} in Keras"
    sides = {("torch", "Keras"): (ours, theirs), ("Keras", "torch"): (theirs, ours)}
    for name in _ACTIVATIONS:
        activation: Any = getattr(keras.activations, name)
        for (without, having), (plain, activated) in sides.items():
            tried = np.asarray(activation(keras.ops.convert_to_tensor(plain)))
            if distance({"": tried}, {"": activated}).value < SAME:
                return f"has no {name.replace('_', ' ')} in {without}, and one in {having}"
    return relation(ours, theirs, {})
