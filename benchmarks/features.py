"""Images per second of computing features: the product's extraction against a bare ``vgg16().features`` loop.

    python benchmarks/features.py --root IMAGES.tar.xz --weights vgg16.safetensors --preprocessing keras_caffe

Both run in this process and take turns on the same images, so what else the machine does hits both. The extraction is
the whole path: gathering, normalizing, the network, pooling, writing to the disk, checksums. The bare loop has the
images in memory, batches of the same size, channels_last, and throws its results away.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from dataclasses import replace
from functools import partial

import torch
from common import (
    DEVICE,
    RATIO_COLUMNS,
    add_backbone,
    add_images,
    benchmark_parser,
    finish_on_device,
    publish,
    ratios_to_bare_loop,
    take_turns,
)
from lightning.pytorch import Trainer
from torchvision.models import vgg16

from lightning_vgg.experiment.specs import BackboneSpec, DataSpec, ExperimentSpec, ModelSpec, NetworkSpec
from lightning_vgg.runs.machine import keep_freed_memory
from lightning_vgg.training.data import ImageData
from lightning_vgg.training.features import use_features
from lightning_vgg.training.module import VGGClassifier

BATCH = 256


def main() -> None:
    parser = benchmark_parser("features", __doc__)
    add_images(parser)
    add_backbone(parser)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()  # as the product's programs do, for both
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    images = DataSpec(source="folder", root=options.root, train_images=options.images, validation_fraction=0.0)
    data = ImageData(ExperimentSpec(data=images))
    figures, rows = {}, []
    for precision in ("32-true", "bf16-mixed"):
        arms = {"bare loop": bare_loop, "extraction": extraction}
        measured = {name: partial(arm, data, options, precision) for name, arm in arms.items()}
        for warm_up in measured.values():
            warm_up()
        of_precision, table = ratios_to_bare_loop(precision, take_turns(precision, measured, options.turns))
        figures |= of_precision
        rows += table
    settings = {name: getattr(options, name) for name in ("images", "image_size", "turns")}
    settings["threads"] = torch.get_num_threads()
    title = "Computing VGG16's features, ratio to the bare loop"
    publish(options.output, title, RATIO_COLUMNS, rows, {**settings, "arms": figures})


def bare_loop(data: ImageData, options: argparse.Namespace, precision: str) -> float:
    with torch.device("meta"):
        features = vgg16(init_weights=False).features
    features = features.to_empty(device=DEVICE).eval()
    with torch.no_grad():
        for parameter in features.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.02)
    features = features.to(memory_format=torch.channels_last)
    batch_size = max(1, BATCH * 32**2 // options.image_size**2)
    images = torch.from_numpy(data.dataset.train.images).permute(0, 3, 1, 2).float() / 64 - 2
    if options.image_size != images.shape[-1]:
        images = torch.nn.functional.interpolate(images[:1000], (options.image_size,) * 2, mode="bilinear")
    batches = images.to(DEVICE, memory_format=torch.channels_last).split(batch_size)
    start = time.perf_counter()
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        for batch in batches:
            features(batch)
    finish_on_device()
    return len(images) / (time.perf_counter() - start)


def extraction(data: ImageData, options: argparse.Namespace, precision: str) -> float:
    """All of `use_features` for the training images, in a cache that is empty at first."""
    backbone = BackboneSpec(options.weights, options.preprocessing, image_size=options.image_size)
    spec = ModelSpec(NetworkSpec(filters=[], units=[]), backbone)
    model = VGGClassifier(ExperimentSpec(model=spec, data=data.spec), data.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(precision=precision, logger=False, enable_checkpointing=False)
        trainer.datamodule = data
        data.spec = replace(data.spec, cache_dir=folder)
        data.feed_images()
        model.to(trainer.strategy.root_device).eval()
        start = time.perf_counter()
        use_features(trainer, model, ("train",))
        return data.count("train") / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
