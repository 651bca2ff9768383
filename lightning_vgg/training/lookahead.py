"""Slow weights beside the trained ones, which return to them every few steps."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_vgg.common.plain import PlainDict

EVERY = 5
"""Steps, as in Keller Jordan's airbench94 (arXiv 2404.00498)."""


def slow_share(step: int, total_steps: int) -> float:
    """Share of the slow weights that is kept: 0.95^5 · (step / total)³, as in airbench94; hardly anything at first."""
    return float(0.95**EVERY * (step / total_steps) ** 3)


class Lookahead(Callback):
    """Every EVERY steps: slow = share · slow + (1 - share) · weights, then weights = slow; after the last step: slow.

    Batch norm's statistics are averaged, too. The idea is Lookahead (Zhang et al. 2019, arXiv 1907.08610).
    """

    def __init__(self) -> None:
        self.slow: dict[str, Tensor] | None = None
        self.step = 0  # the last one that was looked at: several batches may make one step

    def state_dict(self) -> PlainDict:
        return {"slow": self.slow, "step": self.step}

    def load_state_dict(self, state_dict: PlainDict) -> None:
        self.slow, self.step = state_dict["slow"], state_dict["step"]

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.slow is None:
            self.slow = {name: tensor.clone() for name, tensor in _floats(pl_module).items()}
        self.slow = {name: tensor.to(pl_module.device) for name, tensor in self.slow.items()}
        self.total_steps = int(trainer.estimated_stepping_batches)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        step, total = trainer.global_step, self.total_steps
        if step == self.step:
            return
        self.step = step
        if step % EVERY and step != total:
            return
        assert self.slow is not None
        fast = _floats(pl_module)
        if step % EVERY == 0:
            torch._foreach_lerp_(list(self.slow.values()), list(fast.values()), 1 - slow_share(step, total))
        torch._foreach_copy_(list(fast.values()), list(self.slow.values()))


def _floats(module: LightningModule) -> dict[str, Tensor]:
    """Weights and batch norm's statistics, which share memory with the network."""
    network = module.network
    assert isinstance(network, torch.nn.Module)
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
