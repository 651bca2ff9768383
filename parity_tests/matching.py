"""Which layer of a torch module is which layer of a Keras model: by shape, and by place in the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_vgg.common.errors import ExperimentError

Color = tuple[object, ...] | int


@dataclass(frozen=True)
class WeightedLayer:
    """A layer that owns tensors.

    Attributes:
        name: the path in its model.
        tensors: weight, bias, running_mean, running_var as far as it has them, in torch's layout.
        before: the layers with weights whose output reaches it with none in between; None: the framework does not say.
    """

    name: str
    tensors: Mapping[str, np.ndarray]
    before: frozenset[str] | None

    @property
    def signature(self) -> Color:
        return tuple(sorted((role, tensor.shape) for role, tensor in self.tensors.items()))

    def __str__(self) -> str:
        return f"{self.name} {' '.join(f'{role} {tensor.shape}' for role, tensor in self.tensors.items())}"


def match_layers(
    ours: Sequence[WeightedLayer], theirs: Sequence[WeightedLayer], given: Mapping[str, str]
) -> dict[str, str]:
    """torch's names -> Keras's.

    Layers are the same where they have the same shapes and stand at the same place among the others. Where the graph
    does not settle the place, as of two branches that look alike, equal values do, and else the order of the calls if
    it is the same in both.

    Args:
        ours, theirs: in the order in which they are called.
        given: pairs that are known.

    Raises:
        ExperimentError: a layer has no counterpart, or several.
    """
    _check_given(given, ours, theirs)
    marks = {name: (number,) for number, pair in enumerate(given.items()) for name in pair}
    colors, others = ({layer.name: marks.get(layer.name, layer.signature) for layer in side} for side in (ours, theirs))
    known = all(layer.before is not None for layer in (*ours, *theirs))
    refined = _refined(ours, theirs, colors, others) if known else None
    if refined is None and [*colors.values()] == [*others.values()]:
        return {layer.name: other.name for layer, other in zip(ours, theirs, strict=True)}
    if refined is None:
        _refuse_unequal(ours, theirs)
    colors, others = refined or (colors, others)
    found: dict[str, str] = {}
    for color in dict.fromkeys(colors.values()):
        found |= _match_alike(
            [layer for layer in ours if colors[layer.name] == color],
            [layer for layer in theirs if others[layer.name] == color],
        )
    return {layer.name: found[layer.name] for layer in ours}


def _check_given(given: Mapping[str, str], ours: Sequence[WeightedLayer], theirs: Sequence[WeightedLayer]) -> None:
    for framework, layers, names in (("torch", ours, given.keys()), ("Keras", theirs, given.values())):
        known = {layer.name for layer in layers}
        for name in names:
            if name not in known:
                raise ExperimentError(f"--map: {framework} has no layer {name!r} with weights; it has {_names(layers)}")


def _refined(
    ours: Sequence[WeightedLayer], theirs: Sequence[WeightedLayer], colors: dict[str, Color], others: dict[str, Color]
) -> tuple[dict[str, Color], dict[str, Color]] | None:
    """Colours that are equal where everything before and after a layer is equal, too; None where the graphs differ.

    Refinement as in the test of Weisfeiler and Leman (1968): a layer's new colour is made of its own and those of its
    neighbours, until nothing is told apart any more.
    """
    count = 0
    while len({*colors.values(), *others.values()}) > count:
        count = len({*colors.values(), *others.values()})
        sides = [_with_neighbours(ours, colors), _with_neighbours(theirs, others)]
        numbers = {color: number for number, color in enumerate(dict.fromkeys(_values(sides)))}
        colors, others = ({name: numbers[color] for name, color in side.items()} for side in sides)
    return (colors, others) if Counter(colors.values()) == Counter(others.values()) else None


def _values(sides: Iterable[dict[str, Color]]) -> Iterator[Color]:
    return (color for side in sides for color in side.values())


def _with_neighbours(layers: Sequence[WeightedLayer], colors: Mapping[str, Color]) -> dict[str, Color]:
    before = {layer.name: layer.before or frozenset() for layer in layers}
    after = {name: [other for other in before if name in before[other]] for name in before}
    around = {
        name: [tuple(sorted(str(colors[other]) for other in each)) for each in (before[name], after[name])]
        for name in before
    }
    return {name: (colors[name], *neighbours) for name, neighbours in around.items()}


def _refuse_unequal(ours: Sequence[WeightedLayer], theirs: Sequence[WeightedLayer]) -> None:
    """Raise ExperimentError where one side has more layers of a shape than the other."""
    for signature in {layer.signature: None for layer in (*ours, *theirs)}:
        alike = [[layer for layer in side if layer.signature == signature] for side in (ours, theirs)]
        if len(alike[0]) != len(alike[1]):
            raise ExperimentError(
                f"no counterpart: torch has {len(alike[0])} and Keras {len(alike[1])} layers like "
                f"{(alike[0] or alike[1])[0]}: torch {_names(alike[0])}; Keras {_names(alike[1])}"
            )


def _match_alike(ours: list[WeightedLayer], theirs: list[WeightedLayer]) -> dict[str, str]:
    """Layers that shape and place do not tell apart, by their values."""
    if len(ours) == 1:
        return {ours[0].name: theirs[0].name}
    found = {}
    for layer in ours:
        equal = [other for other in theirs if _equal(layer, other)]
        if len(equal) != 1:
            raise ExperimentError(
                f"which is which? {_names(ours)} in torch and {_names(theirs)} in Keras have the same shapes, and look "
                f"alike from their place in the network: write the pairs into a YAML file, such as `{ours[0].name}: "
                f"{theirs[0].name}`, and name it by --map"
            )
        found[layer.name] = equal[0].name
    return found


def _equal(layer: WeightedLayer, other: WeightedLayer) -> bool:
    return all(
        np.array_equal(tensor.astype(np.float32), other.tensors[role].astype(np.float32))
        for role, tensor in layer.tensors.items()
    )


def _names(layers: Iterable[WeightedLayer]) -> str:
    return ", ".join(layer.name for layer in layers) or "none"
