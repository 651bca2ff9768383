"""``lightning-vgg features -c EXPERIMENT.yaml``: what a backbone makes of all images, as one file."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_vgg.experiment.parsing import framework_free_parser
from lightning_vgg.runs.machine import keep_freed_memory
from lightning_vgg.weights.feature_store import HEADLESS, LabelledFeatures, require_backbone, write_features


def main(command: str, args: list[str]) -> None:
    parser = framework_free_parser(f"lightning-vgg {command}", "What the backbone makes of all images, as one file.")
    parser.add_argument("--output", type=str, default="features.npz", help="arrays train, train_labels, val, ...")
    if "-h" in args or "--help" in args:
        parser.print_help()
        return
    config = parser.instantiate(parser.parse_args(args))
    write_features(Path(config.output), backbone_features(config))
    print(config.output)


def backbone_features(specs: Any) -> dict[str, LabelledFeatures]:
    """Of each part that has images; see :func:`lightning_vgg.extract_features`.

    Args:
        specs: ``.model``, ``.data``, ``.trainer`` and ``.seed_everything``.
    """
    spec = require_backbone(specs.model)
    keep_freed_memory()
    from lightning.pytorch import Trainer

    from lightning_vgg.experiment.semantics import resolve_semantics
    from lightning_vgg.training.data import ImageData
    from lightning_vgg.training.module import VGGClassifier
    from lightning_vgg.training.pretrained import load_pretrained
    from lightning_vgg.training.transfer import kept_features

    semantics = resolve_semantics(specs.model.semantics, specs.model.semantics_except)
    pretrained = load_pretrained(spec, specs.data.image_size, semantics)
    data = ImageData(specs.data, specs.seed_everything, pretrained.normalization)
    # Whatever stands on the backbone, it need not fit.
    model = replace(specs.model, network=HEADLESS)
    module = VGGClassifier(model, specs.data.image_size, data.num_classes, pretrained)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it would list all that it leaves out
    # It knows the device and what a precision means, and does nothing else here.
    trainer = Trainer(devices=1, precision=specs.trainer.precision, logger=False, barebones=True)
    trainer.precision_plugin.convert_module(module).to(trainer.strategy.root_device)
    layers = len(pretrained.plan.layers)
    return {
        part: LabelledFeatures(kept_features(trainer, module, data, part, layers), data.part(part).labels)
        for part in ("train", "val", "test")
        if data.count(part)
    }
