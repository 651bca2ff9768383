"""A whitening first convolution: its outputs for image patches are uncorrelated and have variance 1."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vgg.training.data import ImageData

IMAGES = 5000
"""Number of images for the covariance, as in Keller Jordan's airbench94 (arXiv 2404.00498)."""

EPSILON = 5e-4
"""Added to the variances, as there: components that hardly vary would be amplified to noise."""


def whitening_kernels(images: Tensor, size: int) -> Tensor:
    """The eigenvectors of the patches' covariance, each divided by the root of its eigenvalue, and their negatives.

    The negatives keep what an activation after the convolution would cut off.

    Args:
        images: normalized (N, C, H, W).
        size: of a patch, in pixels a side.

    Returns:
        float (2·C·size², C, size, size), the largest eigenvalue first.
    """
    channels = images.shape[1]
    patches = F.unfold(images, size).transpose(1, 2).reshape(-1, channels * size**2)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    kernels = (vectors / (values + EPSILON).sqrt()).T.flip(0).reshape(-1, channels, size, size)
    return torch.cat([kernels, -kernels])


class Whitening(Callback):
    """Gives the first convolution its kernels when a training begins, and freezes its bias after some epochs.

    Args:
        bias_epochs: epochs in which the bias trains.
    """

    def __init__(self, bias_epochs: int) -> None:
        self.bias_epochs = bias_epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None or pl_module.spec.init_from is not None:  # type: ignore[union-attr]
            return  # the kernels come from there
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        every = max(data.count("train") // IMAGES, 1)  # images may lie class by class
        chosen = torch.arange(0, data.count("train"), every)[:IMAGES]
        images = data.images("train", pl_module.device).chosen(chosen)
        conv = first_convolution(pl_module)
        with torch.no_grad():
            conv.weight.copy_(whitening_kernels(images.float(), conv.kernel_size[0]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        # With the batch and not with the epoch: a run that is resumed inside an epoch never starts it.
        bias = first_convolution(pl_module).bias
        if bias is not None and bias.requires_grad and trainer.current_epoch >= self.bias_epochs:
            bias.requires_grad_(False)
            bias.grad = None


def first_convolution(module: nn.Module) -> nn.Conv2d:
    return next(each for each in module.modules() if isinstance(each, nn.Conv2d))
