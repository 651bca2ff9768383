"""What one forward pass brings to each layer, and the steps by which both copies train."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lightning_vgg.experiment.network_plan import Shape
from parity_tests.pair import Tensors

RATE, MOMENTUM = 2.0**-7, 0.875
"""Of the steps: numbers that are exact in every precision."""


@dataclass
class Trace:
    """What one forward pass brings to each layer with weights, channels last.

    Attributes:
        inputs: in the order of the calls.
        outputs: before the activation that belongs to the layer.
        flattened: number of features -> the pixels (H, W, C) that were flattened into so many, the last ones.
        result: of the whole network.
    """

    inputs: Tensors = field(default_factory=dict)
    outputs: Tensors = field(default_factory=dict)
    flattened: dict[int, Shape] = field(default_factory=dict)
    result: np.ndarray = field(default_factory=lambda: np.empty(0))
