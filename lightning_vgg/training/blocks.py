"""NetworkPlan -> torch modules. Images are NCHW here, as torch has them; names are the plan's names."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vgg.experiment.network_plan import CLASSIFIER, NetworkPlan, PlannedLayer, Shape, same_padding
from lightning_vgg.experiment.recipe import (
    Activation,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    SpatialDropout,
    ZeroPadding,
)
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.training import dropout
from lightning_vgg.training.initializers import initialize_kernel

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leaky relu": lambda: _leaky_relu(0.2),  # Keras's slope; torch's is 0.01
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def build_network(plan: NetworkPlan, semantics: Semantics) -> nn.Sequential:
    """The network of a plan: float images (B, C, H, W) -> logits (B, classes), freshly initialized.

    Draws from torch's global generator. State dict keys are ``<planned layer's name>.weight`` and so on.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    flattened = plan.flattened_layers()
    for name, layers in plan.blocks.items():
        if "flatten" not in blocks and (name.startswith("head") or name == CLASSIFIER):
            blocks["flatten"] = nn.Flatten()
        if name == CLASSIFIER:
            blocks[name] = _build_layer(layers[0], semantics, None)
            continue
        blocks[name] = nn.Sequential(
            OrderedDict(
                (layer.name.removeprefix(f"{name}."), _build_layer(layer, semantics, flattened.get(layer.name)))
                for layer in layers
            )
        )
    network = nn.Sequential(blocks)
    if semantics.initialization == "glorot_uniform":
        _initialize_like_keras(network)
    for module in network.modules():
        if isinstance(module, ActivatedConv | ActivatedDense) and module.initializer is not None:
            initialize_kernel(module.weight, module.initializer)
    return network


def pass_inputs_on(network: nn.Module) -> None:
    """Make the first kernels of every convolution Dirac deltas, so that its first outputs are its inputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                nn.init.dirac_(module.weight[: module.in_channels])


def _initialize_like_keras(network: nn.Module) -> None:
    """Glorot uniform kernels, biases 0; torch's modules start as U(±1/√fan_in) for both."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _build_layer(planned: PlannedLayer, semantics: Semantics, pixels: Shape | None) -> nn.Module:
    """``pixels``: where its input is flattened pixels, their (H, W, C)."""
    channels = planned.input_shape[-1]
    match planned.layer:
        case Conv():
            return ActivatedConv(planned, semantics)
        case Dense():
            return ActivatedDense(planned)
        case BatchNorm(momentum=momentum, scale=scale, epsilon=epsilon, bias=bias):
            torch_norm = nn.BatchNorm2d if len(planned.input_shape) == 3 else nn.BatchNorm1d
            kind = BiasedBatchNorm if semantics.batch_norm_variance == "biased" else torch_norm
            kept = semantics.batch_norm_momentum if momentum is None else momentum
            epsilon = semantics.batch_norm_epsilon if epsilon is None else epsilon
            norm = kind(channels, eps=epsilon, momentum=1 - kept)
            for name, wanted in (("weight", scale), ("bias", bias)):
                if not wanted:
                    norm.register_parameter(name, None)
            return norm
        case Dropout(rate=rate):
            assert rate is not None  # the plan fills it in
            return dropout.Dropout(rate, planned.name, pixels)
        case SpatialDropout(rate=rate):
            assert rate is not None  # likewise
            return dropout.SpatialDropout(rate, planned.name)
        case MaxPool(padding="same") | AveragePool(padding="same"):
            return PaddedPool(planned)
        case MaxPool(size=size, stride=stride):
            return nn.MaxPool2d(size, stride)
        case AveragePool(size=size, stride=stride):
            return nn.AvgPool2d(size, stride)
        case GlobalAveragePool():
            return GlobalAverage()
        case GlobalMaxPool():
            return GlobalMax()
        case ZeroPadding(pixels=padding):
            return nn.ZeroPad2d(padding)
        case Activation(name=name, slope=slope):
            return _ACTIVATIONS[name]() if slope is None else _leaky_relu(slope)


def _leaky_relu(slope: float) -> nn.Module:
    return nn.LeakyReLU(_as_float32(slope))


def _as_float32(number: float) -> float:
    """The digits that Keras on TensorFlow leaves of a layer's constant, also in float64."""
    return float(np.float32(number))


class ActivatedConv(nn.Conv2d):
    """Convolution and its activation: (B, C, H, W) -> (B, width, ⌈H/stride⌉, ⌈W/stride⌉), or less if ``valid``."""

    def __init__(self, planned: PlannedLayer, semantics: Semantics) -> None:
        layer = planned.layer
        assert isinstance(layer, Conv)
        before, after = _padding(planned, semantics)
        # Unequal padding needs a copy of the input, so the convolution pads by itself where it can.
        super().__init__(
            planned.input_shape[-1],
            planned.width,
            layer.kernel,
            layer.stride,
            padding=before if before == after else 0,
            bias=layer.bias,
        )
        self.uneven_padding = None if before == after else (before, after, before, after)
        self.activation = _activation_in_place(layer.activation)
        self.initializer, self.l2 = layer.initializer, _as_float32(layer.l2)

    def forward(self, images: Tensor) -> Tensor:
        if self.uneven_padding is not None:
            images = F.pad(images, self.uneven_padding)
        return self.activation(super().forward(images))


def _activation_in_place(name: str) -> nn.Module:
    """The activation of a convolution or dense layer: its input is needed nowhere else, not even for the gradient."""
    activation = _ACTIVATIONS[name]()
    if isinstance(activation, nn.ReLU):
        activation.inplace = True
    return activation


def _padding(planned: PlannedLayer, semantics: Semantics) -> tuple[int, int]:
    """Pixels of padding before and after, alike on both axes (images are square).

    ``same`` in Keras: as much as makes ⌈size/stride⌉ outputs, the odd pixel after. torch writes a strided
    convolution with kernel // 2 on both sides, which makes as many outputs from other pixels.
    """
    layer = planned.layer
    assert isinstance(layer, Conv)
    if layer.padding == "valid":
        return 0, 0
    if layer.stride > 1 and semantics.strided_padding == "both" and layer.kernel % 2 == 1:
        return layer.kernel // 2, layer.kernel // 2
    return same_padding(planned.input_shape[0], layer.kernel, layer.stride)


class ActivatedDense(nn.Linear):
    """Fully connected layer and its activation: (B, features) -> (B, width)."""

    def __init__(self, planned: PlannedLayer) -> None:
        layer = planned.layer
        assert isinstance(layer, Dense)
        super().__init__(planned.input_shape[-1], planned.width, bias=layer.bias)
        self.activation = _activation_in_place(layer.activation)
        self.initializer, self.l2 = layer.initializer, _as_float32(layer.l2)

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(super().forward(features))


class BiasedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization of (B, C) or (B, C, H, W) whose running variance is the biased one, as in Keras.

    torch's own divides by n - 1. As in Keras, a batch with one value a channel is no error: it gives beta.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected (B, C) or (B, C, H, W), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        count = input.numel() // input.shape[1]
        if count <= 1:
            if count:  # none: a process's share of a small last batch
                self.running_mean.lerp_(input.detach().reshape(-1).to(self.running_mean.dtype), self.momentum)
                self.running_var.mul_(1 - self.momentum)
            shape = (1, -1) + (1,) * (input.dim() - 2)
            # Times zero, so that gradients are zeros and not missing.
            zeros = (input - input.detach()) * 0
            scaled = zeros if self.weight is None else zeros * self.weight.view(shape)
            return scaled if self.bias is None else scaled + self.bias.view(shape)
        share_of_unbiased = torch.zeros_like(self.running_var)
        output = F.batch_norm(
            input, self.running_mean, share_of_unbiased, self.weight, self.bias, True, self.momentum, self.eps
        )
        self.running_var.mul_(1 - self.momentum).add_(share_of_unbiased, alpha=(count - 1) / count)
        return output


class GlobalAverage(nn.Module):
    """Mean over all pixels: (B, C, H, W) -> (B, C)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class GlobalMax(nn.Module):
    """Maximum over all pixels: (B, C, H, W) -> (B, C). Equal ones share the gradient, as in Keras on TensorFlow."""

    def forward(self, images: Tensor) -> Tensor:
        return images.amax((2, 3))


class PaddedPool(nn.Module):
    """Pooling with ``same`` padding, which is never the largest and does not count: (B, C, H, W) -> ⌈H/stride⌉ ..."""

    def __init__(self, planned: PlannedLayer) -> None:
        super().__init__()
        layer = planned.layer
        assert isinstance(layer, MaxPool | AveragePool)
        self.size, self.stride, self.largest = layer.size, layer.stride or layer.size, isinstance(layer, MaxPool)
        before, after = same_padding(planned.input_shape[0], self.size, self.stride)
        self.padding = before, after, before, after

    def forward(self, images: Tensor) -> Tensor:
        if self.largest:
            return F.max_pool2d(F.pad(images, self.padding, value=-math.inf), self.size, self.stride)
        inside = F.pad(torch.ones_like(images[:1, :1]), self.padding)
        means = F.avg_pool2d(F.pad(images, self.padding), self.size, self.stride)
        return means / F.avg_pool2d(inside, self.size, self.stride)
