"""Test accuracy of heads on VGG16's features: layer by pooling by image size.

    python benchmarks/transfer_table.py --root IMAGES.tar.xz --weights vgg16.safetensors --preprocessing keras_caffe

Every cell is ``lightning-vgg fit`` with configs/transfer/base.yaml (linear head) or with dense_head.yaml on top of it.
Features are kept, so heads on the same layer share them; a cell whose features are flattened takes the most disk. Cells
that the output file already has, with the same settings, are not trained again.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from common import CONFIGS, add_backbone, add_images, benchmark_parser, fill_table, image_settings, train

HEADS = {"linear": ["base.yaml"], "dense": ["base.yaml", "dense_head.yaml"]}
CHANNELS = {"block5_pool": 512, "block4_pool": 512, "block3_pool": 256}


def main() -> None:
    parser = benchmark_parser("transfer_table", __doc__)
    add_images(parser)
    add_backbone(parser)
    parser.add_argument("--layers", nargs="+", default=list(CHANNELS), choices=CHANNELS)
    parser.add_argument("--poolings", nargs="+", default=["average", "flatten"], choices=["average", "max", "flatten"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32])
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--precision", default="bf16-mixed")
    options = parser.parse_args()
    cells = {
        f"{layer}, {pooling}, {size} px, {head}": partial(measure, options, layer, pooling, size, head)
        for size, layer, pooling, head in product(options.sizes, options.layers, options.poolings, options.heads)
        if size > 32 or layer != "block5_pool" or pooling == "average"  # of one pixel the average is all
    }
    settings = {name: getattr(options, name) for name in ("preprocessing", "precision")}
    settings |= {name: Path(getattr(options, name)).name for name in ("root", "weights")}
    columns = ["layer", "pooling", "size", "head", "parameters", "validation", "test"]
    fill_table(options.output, "Heads on frozen features", columns, settings, cells, row)


def measure(options: argparse.Namespace, layer: str, pooling: str, size: int, head: str) -> dict[str, Any]:
    settings = {
        **image_settings(options.root),
        "data.train_images": None,
        "trainer.precision": options.precision,
        "model.backbone.weights": options.weights,
        "model.backbone.preprocessing": options.preprocessing,
        "model.backbone.layer": layer,
        "model.backbone.pooling": pooling,
        "model.backbone.image_size": size,
        "model.network.filters": [CHANNELS[layer]],
        "trainer.logger": False,
    }
    record, history = train("lightning-vgg", *(CONFIGS / "transfer" / name for name in HEADS[head]), settings)
    figures = {name: record[name] for name in ("test_acc", "test_loss", "trainable_parameters", "images")}
    return {**figures, "val_acc": max(epoch["val_acc"] for epoch in history)}


def row(figure: dict[str, Any]) -> list[str]:
    return [f"{figure['trainable_parameters']:,}", f"{figure['val_acc']:.2%}", f"{figure['test_acc']:.2%}"]


if __name__ == "__main__":
    main()
