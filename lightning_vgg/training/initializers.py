"""Initializers of kernels by Keras's names and formulas (``keras.initializers.VarianceScaling``, Keras 3.15)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal distribution that is cut off at ±2."""


def initialize_kernel(weight: Tensor, initializer: str) -> None:
    """Draw a kernel anew from torch's global generator.

    Args:
        weight: (out, in) or (out, in, height, width).
        initializer: one of ``recipe.INITIALIZERS``: the variance is 1 / mean of both fans (glorot), 2 / fan in (he) or
            1 / fan in (lecun); a normal distribution is cut off at two of its deviations.
    """
    fan_in, fan_out = weight[0].numel(), weight[:, 0].numel()
    rule, distribution = initializer.split()
    variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[rule]
    with torch.no_grad():
        if distribution == "uniform":
            bound = math.sqrt(3 * variance)
            weight.uniform_(-bound, bound)
        else:
            deviation = math.sqrt(variance) / _TRUNCATED
            torch.nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
