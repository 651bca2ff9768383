"""The backbone's features of all images of an experiment."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.machine import keep_freed_memory
from lightning_vgg.weights.feature_store import HEADLESS, LabelledFeatures, require_backbone


def backbone_features(experiment: ExperimentSpec) -> dict[str, LabelledFeatures]:
    """Of each part that has images; see :func:`lightning_vgg.extract_features`."""
    spec = require_backbone(experiment.model)
    keep_freed_memory()
    from lightning.pytorch import Trainer

    from lightning_vgg.training.data import ImageData
    from lightning_vgg.training.module import VGGClassifier
    from lightning_vgg.training.pretrained import load_pretrained
    from lightning_vgg.training.transfer import kept_features

    pretrained = load_pretrained(spec, experiment.image_size, experiment.model.resolved_semantics)
    data = ImageData(experiment.data, experiment.seed_everything, pretrained.normalization)
    # Whatever stands on the backbone, it need not fit.
    model = replace(experiment.model, network=HEADLESS)
    module = VGGClassifier(model, experiment.image_size, data.num_classes, pretrained)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it would list all that it leaves out
    # It knows the device and what a precision means, and does nothing else here.
    precision: Any = experiment.trainer.precision  # checked by the trainer
    trainer = Trainer(devices=1, precision=precision, logger=False, barebones=True)
    trainer.precision_plugin.convert_module(module).to(trainer.strategy.root_device)
    layers = len(pretrained.plan.layers)
    return {
        part: LabelledFeatures(kept_features(trainer, module, data, part, layers), data.part(part).labels)
        for part in ("train", "val", "test")
        if data.count(part)
    }
