"""Dropout whose masks are a function of seed, epoch, image, layer and unit, the same in both frameworks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vgg.experiment.draws import GOLDEN, MULTIPLIERS, SHIFTS, layer_key, lowest_kept
from lightning_vgg.experiment.network_plan import Shape


class Dropout(nn.Dropout):
    """``nn.Dropout`` with the masks of :func:`lightning_vgg.experiment.draws.mask_bits`.

    In a loop that does not say which images a batch holds (see :func:`set_mask_keys`) it is torch's own.

    Args:
        rate: share of the units that are dropped; all others are divided by ``1 - rate``.
        layer: its name, by which the masks of layers differ.
        pixels: where its input is flattened pixels, their (H, W, C): torch counts them as (C, H, W), the masks do not.
    """

    def __init__(self, rate: float, layer: str, pixels: Shape | None = None) -> None:
        super().__init__(rate)
        self.pixels = pixels
        self.layer_key = layer_key(layer)
        self.mask_keys: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p:
            return input
        if self.mask_keys is None:
            return super().forward(input)
        if self.pixels is None:
            return input * kept(self.mask_keys, self.layer_key, self.p, input)
        height, width, channels = self.pixels
        images = input.view(-1, channels, height, width)
        return input * kept(self.mask_keys, self.layer_key, self.p, images).flatten(1)


class SpatialDropout(Dropout):
    """The same of whole channels of (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p:
            return input
        if self.mask_keys is None:
            return F.dropout2d(input, self.p)
        return input * kept(self.mask_keys, self.layer_key, self.p, input[:, :, :1, :1])


def set_mask_keys(network: nn.Module, keys: Tensor | None) -> None:
    """From now on a network's dropout layers drop by the keys of a batch's images, int64 (B,); None: at random."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.mask_keys = keys


def kept(keys: Tensor, layer: int, rate: float, like: Tensor) -> Tensor:
    """0 for units that are dropped, else ``1 / (1 - rate)``.

    Args:
        keys: of the images, int64 (B,).
        layer: the layer's key.
        rate: share that is dropped.
        like: the layer's input (B, C, H, W) or (B, features), whose shape and dtype the mask has.
    """
    units = math.prod(like.shape[1:])
    counter = torch.arange(-(-units // 4), device=keys.device) * _signed(GOLDEN)
    bits = _mix(_mix(keys ^ layer)[:, None] + counter).view(torch.int16)[:, :units]
    mask = (bits >= lowest_kept(rate)).to(like.dtype).mul_(1 / (1 - rate))
    if like.ndim == 2:
        return mask
    _, channels, height, width = like.shape
    return mask.view(-1, height, width, channels).permute(0, 3, 1, 2)


def _mix(numbers: Tensor) -> Tensor:
    """SplitMix64's finalizer of each int64, in place: signed numbers wrap like unsigned ones."""
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        numbers = _xor_shifted(numbers, shift).mul_(_signed(multiplier))
    return _xor_shifted(numbers, SHIFTS[-1])


def _xor_shifted(numbers: Tensor, shift: int) -> Tensor:
    # A signed shift to the right copies the sign, which the mask takes out again.
    return numbers.bitwise_xor_((numbers >> shift).bitwise_and_(2 ** (64 - shift) - 1))


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant
