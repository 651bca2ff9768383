"""``data.class_weight`` -> a weight for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import or_all


def class_weights(
    setting: Literal["balanced"] | Mapping[str | int, float] | None, labels: np.ndarray, class_names: Sequence[str]
) -> np.ndarray | None:
    """The weight of each class, float64 (classes,); None without a setting.

    Args:
        setting: by class name or number, 1 for a class that is left out, as in Keras; or balanced: images / (classes ·
            images of the class), as scikit-learn's ``compute_class_weight`` has it.
        labels: of the training images (N,).
        class_names: in the order of the labels.

    Raises:
        ExperimentError: there is no such class, one is named twice, or a class to be balanced has no training images.
    """
    if setting is None:
        return None
    if setting == "balanced":
        counts = np.bincount(labels, minlength=len(class_names))
        if not counts.all():
            missing = class_names[int(counts.argmin())]
            raise ExperimentError(
                f"data.class_weight: balanced needs training images of every class, and there are none of {missing!r}"
            )
        return len(labels) / (len(class_names) * counts)
    weights, named = np.ones(len(class_names)), dict[int, str]()
    for key, weight in setting.items():
        number = _class_number(str(key), class_names)
        if number in named:
            raise ExperimentError(
                f"data.class_weight: {named[number]} and {key} are the same class, {class_names[number]!r}"
            )
        named[number] = str(key)
        weights[number] = weight
    return weights


def _class_number(key: str, class_names: Sequence[str]) -> int:
    """Of a name, or of the number itself; a name that looks like a number is a name."""
    if key in class_names:
        return class_names.index(key)
    if key.isdecimal() and int(key) < len(class_names):
        return int(key)
    raise ExperimentError(f"data.class_weight: there is no class {key!r}{or_all(key, class_names)}")
