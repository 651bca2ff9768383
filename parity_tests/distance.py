"""How far two sets of tensors differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Distance(NamedTuple):
    """The worst tensor's largest difference as a share of its largest value, and which tensor it is."""

    value: float
    tensor: str


def distance(
    reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], scales: Mapping[str, float] | None = None
) -> Distance:
    """max|difference| / max|reference| of the worst tensor; infinite where a tensor is missing or misshapen.

    A NaN anywhere counts as infinite, too. ``scales`` gives some tensors another denominator.
    """
    worst = Distance(0.0, "")
    for name in {**reference, **other}:
        apart = _apart(reference.get(name), other.get(name), (scales or {}).get(name))
        if apart > worst.value or not worst.tensor:
            worst = Distance(apart, name)
    return worst


def _apart(reference: np.ndarray | None, other: np.ndarray | None, scale: float | None) -> float:
    if reference is None or other is None or reference.shape != other.shape:
        return float("inf")
    scale = scale or float(np.abs(reference).max()) or 1.0
    apart = float(np.abs(reference - other).max()) / scale
    return apart if np.isfinite(apart) else float("inf")
