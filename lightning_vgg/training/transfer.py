"""Transfer learning: a pretrained backbone, what of it is frozen when, and its features computed once."""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import BackbonePlan, freezing_line
from lightning_vgg.experiment.specs import AugmentationSpec
from lightning_vgg.images.sources import cache_folder
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.data import DeviceImages, EvalRows, ImageData
from lightning_vgg.training.optim import ParameterGroup
from lightning_vgg.weights.feature_store import (
    describe_features,
    features_batch_size,
    remember_features,
    say_features_are_not_kept,
)
from lightning_vgg.weights.neutral import check_tensors
from lightning_vgg.weights.pretrained import Pretrained


class Backbone(nn.Sequential):
    """Pretrained layers under Keras's names: images (B, 3, S, S) -> (B, C, H, W), pooled as planned.

    The lowest `frozen` layers stay in evaluation mode whatever the mode of the rest, and run without gradients.

    Attributes:
        frozen: how many layers do not train now.
        fed: how many layers have run already when `forward` is called: their features come instead of images.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        plan = pretrained.plan
        # Weights that are overwritten must not use up the chance that the rest is initialized by.
        random = contextlib.nullcontext() if pretrained.tensors is None else torch.random.fork_rng(devices=[])
        with random:
            source = build_network(plan.source, plan.semantics)
        modules = [source.get_submodule(layer.name) for layer in plan.source.layers[: len(plan.layers)]]
        super().__init__(OrderedDict((layer.name, module) for layer, module in zip(plan.layers, modules, strict=True)))
        self.plan = plan
        self.fed = 0
        if pretrained.tensors is not None:
            self._load(pretrained)
        self.freeze(plan.frozen_layers(0))

    def _load(self, pretrained: Pretrained) -> None:
        assert pretrained.tensors is not None
        state = {name: tensor for name, tensor in self.state_dict().items() if not name.endswith("num_batches_tracked")}
        used = {name: value for name, value in pretrained.tensors.items() if name.partition(".")[0] in self._modules}
        check_tensors(pretrained.description["weights"], used, {name: tuple(state[name].shape) for name in state})
        with torch.no_grad():
            for name, value in used.items():
                state[name].copy_(torch.from_numpy(value))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs if self.fed else resize(inputs, self.plan.image_size)
        with torch.no_grad():
            hidden = self._run(hidden, self.fed, self.frozen)
        return self.pool(self._run(hidden, max(self.fed, self.frozen), len(self)))

    def features(self, images: Tensor, layers: int) -> Tensor:
        """What the lowest layers make of images; pooled where these are all layers."""
        hidden = self._run(resize(images, self.plan.image_size), 0, layers)
        return self.pool(hidden) if layers == len(self) else hidden

    def _run(self, hidden: Tensor, first: int, end: int) -> Tensor:
        for layer in list(self.children())[first:end]:
            hidden = layer(hidden)
        return hidden

    def pool(self, hidden: Tensor) -> Tensor:
        """What of the last layer's output (B, C, H, W) goes up to the head, (B, C, H, W) or (B, C, 1, 1)."""
        if self.plan.pooling == "flatten" or hidden.ndim == 2:
            return hidden
        if self.plan.pooling == "average":
            return hidden.mean((2, 3), keepdim=True)
        return hidden.amax((2, 3), keepdim=True)

    def freeze(self, layers: int) -> None:
        """Let all but the lowest ``layers`` train."""
        self.frozen = layers
        for number, layer in enumerate(self.children()):
            layer.requires_grad_(number >= layers)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for layer in list(self.children())[: self.frozen]:
            layer.eval()
        return self


def resize(images: Tensor, size: int) -> Tensor:
    """(B, C, S, S) -> (B, C, size, size) as Keras does it: bilinear between the pixels' centres, no antialiasing."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=False)


def on_backbone(backbone: Backbone, head: nn.Module) -> nn.Sequential:
    """One network of both."""
    return nn.Sequential(OrderedDict([("backbone", backbone), *head.named_children()]))


def trained_parts(network: nn.Module, plan: BackbonePlan) -> list[ParameterGroup]:
    """The head, and whatever of the backbone trains sooner or later, by learning rate and first epoch."""
    layers = list(network.get_submodule("backbone").children())
    head = [parameter for name, parameter in network.named_parameters() if not name.startswith("backbone.")]
    parts = [ParameterGroup(head, 1.0)]
    for (_, factor), numbers in plan.trained_groups().items():
        parameters = [parameter for number in numbers for parameter in layers[number].parameters()]
        if parameters:
            parts.append(ParameterGroup(parameters, factor))
    return parts


def count_parameters(network: nn.Module, frozen: bool) -> int:
    """How many numbers train now, or how many do not."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad is not frozen)


class Transfer(Callback):
    """Freezes by the epoch, and computes the features of what never trains once for all epochs and runs."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Frozen layers are meant to be in evaluation mode.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
        backbone = _backbone(pl_module)
        if len(backbone.plan.frozen) > 1 and trainer.world_size > 1:
            raise ExperimentError(
                "model.backbone.unfreeze needs trainer.devices 1: the gradients of layers that are unfrozen later "
                "would not be shared between the processes"
            )
        use_features(trainer, pl_module, ("train", "val", "test"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        use_features(trainer, pl_module, ("val",))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        use_features(trainer, pl_module, ("test",))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _backbone(pl_module).freeze(_backbone(pl_module).plan.frozen_layers(trainer.current_epoch))
        self._say_what_trains(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # With the batch and not with the epoch: a run that is resumed inside an epoch never starts it.
        backbone = _backbone(pl_module)
        layers = backbone.plan.frozen_layers(trainer.current_epoch)
        if layers != backbone.frozen:
            backbone.freeze(layers)
            self._say_what_trains(trainer, pl_module)

    def _say_what_trains(self, trainer: Trainer, module: LightningModule) -> None:
        backbone, network = _backbone(module), _network(module)
        if trainer.is_global_zero:
            trainable, frozen = (count_parameters(network, frozen) for frozen in (False, True))
            plan, epoch = backbone.plan, trainer.current_epoch
            print(freezing_line(epoch, trainer.max_epochs, trainable, frozen, plan, backbone.frozen), flush=True)


def use_features(trainer: Trainer, module: LightningModule, parts: tuple[str, ...]) -> None:
    """Feed the features of the layers that never train to the rest; they are computed where they are not kept.

    With augmentation, images are never the same, so nothing can be kept.
    """
    backbone = _backbone(module)
    data = trainer.datamodule  # type: ignore[attr-defined]
    layers = backbone.plan.always_frozen
    if not layers:
        return
    assert isinstance(data, ImageData)
    if data.spec.augmentation != AugmentationSpec():
        if trainer.state.fn == "fit" and "train" in parts and trainer.is_global_zero:
            say_features_are_not_kept(layers)
        return
    for part in parts:
        if data.count(part) and not data.has_features(part):
            data.feed_features(part, kept_features(trainer, module, data, part, layers), module.device)
    backbone.fed = layers


def kept_features(trainer: Trainer, module: LightningModule, data: ImageData, part: str, layers: int) -> np.ndarray:
    """What the lowest layers of the backbone make of a part's images, (N, ..., C); kept in the cache."""
    backbone = _backbone(module)
    plan, device = backbone.plan, module.device
    precision = module.dtype
    assert isinstance(precision, torch.dtype)
    dtype = np.float64 if precision == torch.float64 else np.float32
    images, normalization = data.part(part).images, data.dataset.normalization
    description = describe_features(
        plan,
        layers,
        _tensors(backbone, layers),
        images,
        normalization,
        framework="lightning",
        precision=str(trainer.precision),
        device=device.type,
    )
    on_device: list[DeviceImages] = []  # images go there only if something is computed

    def compute(rows: slice) -> np.ndarray:
        if not on_device:
            on_device.append(DeviceImages(data.part(part), normalization, device, precision))
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            index = torch.arange(rows.start, rows.stop, device=device)
            features = backbone.features(on_device[0].evaluation_batch(EvalRows(index))[0], layers)
            return features.movedim(1, -1).to(getattr(torch, np.dtype(dtype).name)).cpu().numpy()

    return remember_features(
        cache_folder(data.spec.cache_dir),
        description,
        (len(images), *plan.features_shape(layers)),
        dtype,
        compute,
        features_batch_size(plan.image_size),
        label=f"features of {part}",
    )


def _tensors(backbone: Backbone, layers: int) -> dict[str, np.ndarray]:
    """Weights and statistics of the lowest layers."""
    return {
        f"{layer}.{name}": tensor.cpu().numpy()
        for layer, module in list(backbone.named_children())[:layers]
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _backbone(module: LightningModule) -> Backbone:
    backbone = _network(module).get_submodule("backbone")
    assert isinstance(backbone, Backbone)
    return backbone


def _network(module: LightningModule) -> nn.Module:
    network = module.network
    assert isinstance(network, nn.Module)
    return network
