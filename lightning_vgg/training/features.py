"""A backbone's features: of the layers that never train, computed once and cached; and of all layers, as arrays."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vgg.experiment.specs import AugmentationSpec, ExperimentSpec
from lightning_vgg.images.sources import cache_folder
from lightning_vgg.runs.machine import keep_freed_memory
from lightning_vgg.training.data import DeviceImages, ImageData
from lightning_vgg.training.pretrained import load_pretrained
from lightning_vgg.training.transfer import Backbone, backbone_of
from lightning_vgg.training.weights import network_tensors
from lightning_vgg.weights.feature_store import (
    LabelledFeatures,
    remember_backbone_features,
    require_backbone,
    say_features_are_not_kept,
)


class UseFeatures(Callback):
    """Computes the features of what never trains once for all epochs and runs, and feeds them to the rest."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        use_features(trainer, pl_module, ("train", "val", "test"))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        use_features(trainer, pl_module, ("val",))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        use_features(trainer, pl_module, ("test",))


def use_features(trainer: Trainer, module: LightningModule, parts: tuple[str, ...]) -> None:
    """Feed the features of the layers that never train to the rest; they are computed where they are not kept.

    With augmentation, images are never the same, so nothing can be kept.
    """
    backbone = backbone_of(module)
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
            data.feed_features(part, kept_features(trainer, backbone, layers, data, part), module.device)
    backbone.fed = layers


def kept_features(trainer: Trainer, backbone: Backbone, layers: int, data: ImageData, part: str) -> np.ndarray:
    """What the lowest layers of the backbone make of a part's images, (N, ..., C); kept in the cache.

    Args:
        trainer: which knows the device and what a precision means.
        backbone: on that device, with its weights.
        layers: how many of its layers.
        data: the images, and where features are kept.
        part: train, val or test.
    """
    device = trainer.strategy.root_device
    with trainer.precision_plugin.tensor_init_context():
        precision = torch.get_default_dtype()
    dtype = np.float64 if precision == torch.float64 else np.float32
    images, normalization = data.part(part).images, data.dataset.normalization
    lowest = {layer.name for layer in backbone.plan.layers[:layers]}
    on_device: list[DeviceImages] = []  # images go there only if something is computed

    def compute(rows: slice) -> np.ndarray:
        if not on_device:
            on_device.append(DeviceImages(data.part(part), normalization, device, precision))
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            batch = on_device[0].chosen(torch.arange(rows.start, rows.stop))
            features = backbone.features(batch, layers)
            return features.movedim(1, -1).to(getattr(torch, np.dtype(dtype).name)).cpu().numpy()

    return remember_backbone_features(
        cache_folder(data.spec.cache_dir),
        backbone.plan,
        layers,
        {name: tensor for name, tensor in network_tensors(backbone).items() if name.partition(".")[0] in lowest},
        images,
        normalization,
        dtype,
        compute,
        part,
        framework="lightning",
        precision=str(trainer.precision),
        device=device.type,
    )


def backbone_features(experiment: ExperimentSpec) -> dict[str, LabelledFeatures]:
    """Of each part that has images; see :func:`lightning_vgg.extract_features`."""
    model = experiment.model
    spec = require_backbone(model)
    keep_freed_memory()
    pretrained = load_pretrained(spec, experiment.image_size, model.resolved_semantics)
    data = ImageData(experiment, pretrained.normalization)
    torch.manual_seed(experiment.seed_everything)  # by which untrained weights are drawn
    backbone = Backbone(pretrained).eval()
    if model.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it would list all that it leaves out
    # It knows the device and what a precision means, and does nothing else here.
    precision: Any = experiment.trainer.precision  # checked by the trainer
    trainer = Trainer(devices=1, precision=precision, logger=False, barebones=True)
    trainer.precision_plugin.convert_module(backbone).to(trainer.strategy.root_device)
    layers = len(pretrained.plan.layers)
    return {
        name: LabelledFeatures(kept_features(trainer, backbone, layers, data, name), part.labels)
        for name, part in data.dataset.parts.items()
        if len(part.labels)
    }
