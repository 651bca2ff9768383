"""L2 regularization as Keras has it: a term of the training loss, so its gradient 2 · λ · w is clipped and scaled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_vgg.training.blocks import ActivatedConv, ActivatedDense


def penalized_layers(network: nn.Module) -> list[ActivatedConv | ActivatedDense]:
    """The layers whose recipe has an ``l2``."""
    return [module for module in network.modules() if isinstance(module, ActivatedConv | ActivatedDense) and module.l2]


def l2_penalty(layers: list[ActivatedConv | ActivatedDense]) -> Tensor | float:
    """Sum over the layers of l2 · Σw² of the kernel, a scalar; 0 of none."""
    return torch.stack([layer.l2 * layer.weight.square().sum() for layer in layers]).sum() if layers else 0.0
