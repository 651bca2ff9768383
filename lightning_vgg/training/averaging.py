"""The exponential moving average of the weights, which is validated and tested in their place."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from lightning_vgg.common.plain import PlainDict


class Average:
    """average = momentum · average + (1 - momentum) · weights after every step; after the first one, the weights.

    As in keras/src/optimizers/base_optimizer.py, where batch norm's statistics are not averaged either.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.tensors: list[Tensor] = []

    @torch.no_grad()
    def update(self, weights: list[Tensor]) -> None:
        if not self.tensors:
            self.tensors = [weight.detach().clone() for weight in weights]
        else:
            torch._foreach_lerp_(self.tensors, weights, 1 - self.momentum)

    @torch.no_grad()
    def swap(self, weights: list[Tensor]) -> None:
        """Exchange the two, in place."""
        before = [weight.detach().clone() for weight in weights]
        torch._foreach_copy_(weights, self.tensors)
        torch._foreach_copy_(self.tensors, before)


class AveragedWeights(Callback):
    """Keeps the average; validation and checkpoints have it in place of the weights, which training goes on with.

    Lightning's own WeightAveraging copies the module before it is on its device and in its precision.
    """

    def __init__(self, momentum: float) -> None:
        self.average = Average(momentum)
        self.step = 0  # the last one that was looked at: several batches may make one step
        self.trained: dict[str, Tensor] = {}  # of a checkpoint: the weights themselves

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        if self.trained:  # the checkpoint's network is the average
            weights = _weights(pl_module)
            self.average.tensors = [self.trained[name].to(weight.device) for name, weight in weights.items()]
            self.average.swap([*weights.values()])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.average.update([*_weights(pl_module).values()])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: PlainDict) -> None:
        for name, tensor in zip(_weights(pl_module), self.average.tensors, strict=True):
            checkpoint["state_dict"][f"network.{name}"] = tensor
        checkpoint["trained_weights"] = {name: weight.detach() for name, weight in _weights(pl_module).items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: PlainDict) -> None:
        self.trained = checkpoint["trained_weights"]

    def _swap(self, module: LightningModule) -> None:
        if self.average.tensors:  # none in a command that only validates: its checkpoint has the average
            self.average.swap([*_weights(module).values()])


def _weights(module: LightningModule) -> dict[str, Tensor]:
    network = module.network
    assert isinstance(network, nn.Module)
    return dict(network.named_parameters())
