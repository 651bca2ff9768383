"""SGD whose velocity may hold the learning rate, as in Keras, and whose weight decay may be decoupled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_vgg.common.plain import PlainDict


class VelocitySGD(Optimizer):
    """SGD as in Keras: v = momentum · v - rate · g, then w += v; decoupled decay w -= rate · decay · w comes first.

    In torch's SGD the velocity does not include the rate, so a change of the rate also applies to all past gradients.

    Args:
        params: parameters or groups with ``weight_decay``.
        lr: the rate.
        momentum: share of the velocity that is kept.
        nesterov: w += momentum · v - rate · g instead.
        rate_in_velocity: False gives torch's rule.
        decoupled: False adds decay · w to the gradient instead.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        rate_in_velocity: bool = True,
        decoupled: bool = True,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "rate_in_velocity": rate_in_velocity,
                "decoupled": decoupled,
                "weight_decay": 0.0,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, [weight.grad for weight in weights], group)
        return loss

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: PlainDict) -> None:
        """All tensors of a group at once: ``_foreach`` runs one kernel for many small tensors."""
        rate, momentum = group["lr"], group["momentum"]
        if group["weight_decay"]:
            if group["decoupled"]:
                torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
            else:
                gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if not momentum:
            torch._foreach_add_(weights, gradients, alpha=-rate)
            return
        velocities = [self._velocity(weight) for weight in weights]
        # Without the rate the velocity sums plain gradients, and the rate comes in when the weights move.
        gradient_factor, step_factor = (-rate, 1.0) if group["rate_in_velocity"] else (1.0, -rate)
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients, alpha=gradient_factor)
        if group["nesterov"]:
            torch._foreach_add_(weights, velocities, alpha=momentum * step_factor)
            torch._foreach_add_(weights, gradients, alpha=-rate)
        else:
            torch._foreach_add_(weights, velocities, alpha=step_factor)

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        velocity: Tensor = state["velocity"]
        return velocity
