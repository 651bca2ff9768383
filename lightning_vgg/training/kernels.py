"""torch's operations by other kernels: the results differ by rounding alone, as another framework's do.

A control computed so rounds anew at every step, where a nudge of the weights at the start would be rounding once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Replaced(TorchFunctionMode):
    """Inside, functions of torch are others."""

    def __init__(self, others: dict[Callable[..., Tensor], Callable[..., Tensor]]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.others.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def reordered() -> Iterator[None]:
    """Convolutions and dense layers that add up their channels backwards, and batch norm as in ``written_out``.

    Nearly as fast as usual, so that a whole training can be computed so.
    """

    def convolution(images: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        return torch.conv2d(images.flip(1), weight.flip(1), *rest)

    with _Replaced({torch.conv2d: convolution, F.batch_norm: _batch_norm, F.linear: _linear}):
        yield


@contextmanager
def channels_first() -> Iterator[None]:
    """Convolutions on images with the channels first in memory, and not by oneDNN; sums over features backwards."""

    def convolution(images: Tensor, *rest: Any) -> Tensor:
        return torch.conv2d(images.contiguous(), *rest)

    with warnings.catch_warnings():
        # torch says so whenever oneDNN is switched.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False), _Replaced({torch.conv2d: convolution, F.linear: _linear}):
            yield


@contextmanager
def written_out() -> Iterator[None]:
    """Convolutions as one matrix product of all patches, batch norm in elementary operations: x · a + b, as TensorFlow
    has it, with a = weight / √(variance + epsilon) and b = bias - mean · a.
    """
    with _Replaced({torch.conv2d: _convolution, F.batch_norm: _batch_norm, F.linear: _linear}):
        yield


Kernels = Callable[[], AbstractContextManager[None]]

OTHER_KERNELS: tuple[Kernels, ...] = (channels_first, written_out)
"""The last one rounds most like TensorFlow: batch norm's formula matters more than any order of additions."""


def _linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = features.flip(-1) @ weight.flip(-1).T
    return product if bias is None else product + bias


def _convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    if isinstance(padding, str) or groups != 1 or set(dilation) != {1}:  # of a user's own module
        return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)
    patches = F.unfold(images, weight.shape[2:], padding=padding, stride=stride)
    outputs = F.linear(patches.transpose(1, 2).flatten(0, 1), weight.flatten(1), bias)
    height = (images.shape[2] + 2 * padding[0] - weight.shape[2]) // stride[0] + 1
    return outputs.view(len(images), height, -1, len(weight)).permute(0, 3, 1, 2)


def _batch_norm(
    inputs: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    narrow = inputs.dtype == torch.bfloat16  # torch's batch norm computes in float32 then, too
    outputs_dtype, inputs = inputs.dtype, inputs.float() if narrow else inputs
    shape = (1, -1) + (1,) * (inputs.ndim - 2)
    mean, variance = running_mean, running_var
    if training:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        mean = inputs.mean(axes)
        variance = (inputs - mean.detach().view(shape)).square().mean(axes)
        count = inputs.numel() // inputs.shape[1]
        with torch.no_grad():
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            running_var.mul_(1 - momentum).add_(variance, alpha=momentum * count / (count - 1))
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    offset = -mean * scale if bias is None else bias - mean * scale
    return (inputs * scale.view(shape) + offset.view(shape)).to(outputs_dtype)
