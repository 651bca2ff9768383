"""Images per second of training a head on features that are kept: ``fit`` against a bare PyTorch loop and Keras.

    python benchmarks/heads.py --root IMAGES.tar.xz --weights vgg16.safetensors --preprocessing keras_caffe

The heads are those of configs/transfer/base.yaml (linear) and dense_head.yaml, with the batch of 64 that stands there
and one of 1,024. Every ``fit`` is a whole command line in a process of its own; the bare loop has the same features in
memory, and runs in this one, which keeps freed memory as the programs do. They take turns; a figure in one turn is the
median over the epochs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from common import (
    CONFIGS,
    RATIO_COLUMNS,
    add_backbone,
    add_images,
    benchmark_parser,
    image_settings,
    publish,
    ratios_to_bare_loop,
    take_turns,
    train,
    training_step,
)
from torch import nn

from lightning_vgg import extract_features
from lightning_vgg.training.cuda_check import make_cuda_checks_cheap
from lightning_vgg.weights.feature_store import LabelledFeatures

BASE = CONFIGS / "transfer" / "base.yaml"
HEADS = {"linear": [BASE], "dense": [BASE, CONFIGS / "transfer" / "dense_head.yaml"]}
EPOCHS = 10


def main() -> None:
    parser = benchmark_parser("heads", __doc__)
    add_images(parser)
    add_backbone(parser)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1024])
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        settings = {
            **image_settings(options.root, options.images),
            "data.cache_dir": cache,
            "model.backbone.weights": options.weights,
            "model.backbone.preprocessing": options.preprocessing,
            "trainer.max_epochs": EPOCHS,
        }
        kept = extract_features(BASE, settings)["train"]
        make_cuda_checks_cheap()  # for the bare loop, as in fit
        for head in HEADS:
            for batch in options.batches:
                name = f"{head}, batch {batch}"
                measured = arms(head, kept, {**settings, "data.batch_size": batch})
                of_name, table = ratios_to_bare_loop(name, take_turns(name, measured, options.turns))
                figures |= of_name
                rows += table
    described = {"images": options.images, "epochs": EPOCHS, "turns": options.turns}
    described |= {"features": kept.features.shape[1:], "threads": torch.get_num_threads()}
    title = "Training heads on kept features, ratio to the bare loop"
    publish(options.output, title, ["head", *RATIO_COLUMNS[1:]], rows, {**described, "arms": figures})


def arms(head: str, kept: LabelledFeatures, settings: dict[str, Any]) -> dict[str, Callable[[], float]]:
    """What is measured -> how."""
    return {
        "bare loop": lambda: bare_loop(head, kept, settings["data.batch_size"]),
        "fit": lambda: fit_speed("lightning-vgg", head, settings),
        "Keras reference": lambda: fit_speed("keras-reference", head, settings),
    }


def bare_loop(head: str, kept: LabelledFeatures, batch: int) -> float:
    torch.manual_seed(0)
    features, targets = torch.from_numpy(kept.features), torch.from_numpy(kept.labels)
    height, width, channels = features.shape[1:]
    inputs = height * width * channels
    top: list[nn.Module] = [nn.Linear(inputs, 10)]
    if head == "dense":
        top = [nn.Linear(inputs, 256), nn.ReLU(), nn.BatchNorm1d(256), nn.Dropout(0.5), nn.Linear(256, 10)]
    network = nn.Sequential(nn.BatchNorm2d(channels), nn.Flatten(), *top)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    speeds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for index in torch.randperm(len(features)).split(batch):
            training_step(network, optimizer, features[index].permute(0, 3, 1, 2), targets[index])
        speeds.append(len(features) / (time.perf_counter() - start))
    return statistics.median(speeds)


def fit_speed(program: str, head: str, settings: dict[str, Any]) -> float:
    record, _ = train(program, *HEADS[head], settings)
    return record["images_per_second"]


if __name__ == "__main__":
    main()
