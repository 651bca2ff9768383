"""Transfer learning: a pretrained backbone, and what of it is frozen when."""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vgg.experiment.backbone_plan import BackbonePlan, freezing_line
from lightning_vgg.experiment.draws import layer_key
from lightning_vgg.experiment.recipe import Dense
from lightning_vgg.training.blocks import build_network
from lightning_vgg.training.dropout import Dropout
from lightning_vgg.training.optim import ParameterGroup
from lightning_vgg.training.weights import load_tensors
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
        for layer, module in zip(plan.layers, modules, strict=True):
            if isinstance(module, Dropout):
                module.layer_key = layer_key(layer.name)  # the head's layers have the source's names
            if isinstance(layer.layer, Dense):
                module.register_forward_pre_hook(_flatten)
        self.plan = plan
        self.fed = 0
        if pretrained.tensors is not None:
            self._load(pretrained)
        self.freeze(plan.frozen_layers(0))

    def _load(self, pretrained: Pretrained) -> None:
        assert pretrained.tensors is not None
        used = {name: value for name, value in pretrained.tensors.items() if name.partition(".")[0] in self._modules}
        load_tensors(pretrained.description["weights"], self, used)

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
        if hidden.ndim == 2:
            return hidden[:, :, None, None]
        if self.plan.pooling == "flatten":
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


def _flatten(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0].flatten(1)


def resize(images: Tensor, size: int) -> Tensor:
    """(B, C, S, S) -> (B, C, size, size) as Keras does it: bilinear between the pixels' centres, no antialiasing."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=False)


def on_backbone(backbone: Backbone, head: nn.Module) -> nn.Sequential:
    """One network of both."""
    return nn.Sequential(OrderedDict([("backbone", backbone), *head.named_children()]))


def parameter_groups(network: nn.Module, plan: BackbonePlan) -> list[ParameterGroup]:
    """The head, and whatever of the backbone trains sooner or later, by learning rate and first epoch."""
    layers = list(network.get_submodule("backbone").children())
    head = [parameter for name, parameter in network.named_parameters() if not name.startswith("backbone.")]
    groups = [ParameterGroup(head, 1.0)]
    for (_, factor), numbers in plan.trained_groups().items():
        parameters = [parameter for number in numbers for parameter in layers[number].parameters()]
        if parameters:
            groups.append(ParameterGroup(parameters, factor))
    return groups


def count_parameters(network: nn.Module) -> dict[str, int]:
    """In all, those that train now, and those that are frozen; batch norm's statistics are none."""
    total = sum(parameter.numel() for parameter in network.parameters())
    training = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return {"parameters": total, "trainable_parameters": training, "frozen_parameters": total - training}


class Freezing(Callback):
    """Freezes by the epoch, and says what trains."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Frozen layers are meant to be in evaluation mode.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone = backbone_of(pl_module)
        backbone.freeze(backbone.plan.frozen_layers(trainer.current_epoch))
        self._say_what_trains(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        # With the batch and not with the epoch: a run that is resumed inside an epoch never starts it.
        backbone = backbone_of(pl_module)
        layers = backbone.plan.frozen_layers(trainer.current_epoch)
        if layers != backbone.frozen:
            backbone.freeze(layers)
            self._say_what_trains(trainer, pl_module)

    def _say_what_trains(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            backbone, counts = backbone_of(module), count_parameters(_network(module))
            numbers = counts["trainable_parameters"], counts["frozen_parameters"]
            line = freezing_line(trainer.current_epoch, trainer.max_epochs, *numbers, backbone.plan, backbone.frozen)
            print(line, flush=True)


def backbone_of(module: LightningModule) -> Backbone:
    backbone = _network(module).get_submodule("backbone")
    assert isinstance(backbone, Backbone)
    return backbone


def _network(module: LightningModule) -> nn.Module:
    network = module.network
    assert isinstance(network, nn.Module)
    return network
