"""Muon for the kernels of convolutions: steps along the orthogonalized momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.training.velocity_sgd import VelocitySGD

MOMENTUM = 0.6
"""Nesterov's, as in Keller Jordan's airbench94_muon (github.com/KellerJordan/cifar10-airbench)."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial aX + bXXᵀX + c(XXᵀ)²X, likewise: steep at 0, so that few iterations lift small singular values."""

ITERATIONS = 3
"""Likewise."""


class MuonSGD(VelocitySGD):
    """Muon (Jordan et al. 2024) for groups with ``muon: True``, SGD with momentum for all others.

    A kernel is treated as a matrix with a row for each filter. Before each step it is scaled to the norm √filters;
    then it moves by the rate times the orthogonalized momentum, whose norm is about the same.
    """

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: PlainDict) -> None:
        if not group.get("muon"):
            super()._update(weights, gradients, group)
            return
        for weight, gradient in zip(weights, gradients, strict=True):
            velocity = self._velocity(weight).mul_(MOMENTUM).add_(gradient)
            direction = orthogonalized(gradient.add(velocity, alpha=MOMENTUM).flatten(1))
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.sub_(direction.view_as(weight), alpha=group["lr"])


def orthogonalized(matrix: Tensor) -> Tensor:
    """U Sʹ Vᵀ for a matrix U S Vᵀ, the singular values Sʹ being about 1: Newton and Schulz's iteration.

    In bfloat16, which is enough and fast, unless the matrix is float64.
    """
    x = matrix if matrix.dtype == torch.float64 else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)  # singular values at most 1; a gradient of zeros stays
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
