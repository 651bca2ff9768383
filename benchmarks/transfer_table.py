"""Test accuracy of heads on VGG16's features: layer by pooling by image size.

    python benchmarks/transfer_table.py --root IMAGES.tar.xz --weights vgg16.safetensors --preprocessing keras_caffe

Every cell is ``lightning-vgg fit`` with configs/transfer/base.yaml (linear head) or with dense_head.yaml on top of it.
Features are kept, so heads on the same layer share them; a cell whose features are flattened takes the most disk. Cells
that benchmarks/results/transfer_table.json has already, with the same settings, are not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, publish

from lightning_vgg.runs.folder import RunFolder

PROGRAM = Path(sys.executable).parent / "lightning-vgg"
CONFIGS = Path(__file__).parent.parent / "configs" / "transfer"
HEADS = {"linear": [], "dense": ["-c", str(CONFIGS / "dense_head.yaml")]}
ALREADY = {(32, "block5_pool", "flatten"), (32, "block5_pool", "max")}
"""One pixel is left there: its average is all of it."""
CHANNELS = {"block3_pool": 256, "block4_pool": 512, "block5_pool": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    parser.add_argument("--weights", required=True, help="as model.backbone.weights")
    parser.add_argument("--preprocessing", help="as model.backbone.preprocessing")
    parser.add_argument("--layers", nargs="+", default=["block5_pool", "block4_pool", "block3_pool"], choices=CHANNELS)
    parser.add_argument("--poolings", nargs="+", default=["average", "max", "flatten"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--images", type=int, help="training images; all by default")
    parser.add_argument("--validation_fraction", type=float, default=0.1)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="flags for every fit, at the end")
    options = parser.parse_args()
    settings = {
        name: value for name, value in vars(options).items() if name not in ("layers", "poolings", "sizes", "heads")
    }
    settings = {**settings, "root": Path(options.root).name, "weights": Path(options.weights).name}
    figures = known_cells(settings)
    for size in options.sizes:
        for layer in options.layers:
            for pooling in options.poolings:
                if (size, layer, pooling) in ALREADY:
                    continue
                for head in options.heads:
                    cell = f"{layer}, {pooling}, {size} px, {head}"
                    if cell not in figures:
                        figures[cell] = measure(options, layer, pooling, size, head)
                        print(f"{cell}: {figures[cell]['test_acc']:.2%}", flush=True)
                        write(figures, settings)
    write(figures, settings)


def known_cells(settings: dict[str, Any]) -> dict[str, Any]:
    path = RESULTS / "transfer_table.json"
    if not path.exists():
        return {}
    known = json.loads(path.read_text())
    return known["cells"] if known["settings"] == settings else {}


def measure(options: argparse.Namespace, layer: str, pooling: str, size: int, head: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            PROGRAM,
            "fit",
            "-c",
            CONFIGS / "base.yaml",
            *HEADS[head],
            "--data.source",
            "folder",
            "--data.root",
            options.root,
            "--data.train_images",
            options.images or "null",
            "--data.validation_fraction",
            options.validation_fraction,
            "--trainer.precision",
            options.precision,
            "--model.backbone.weights",
            options.weights,
            "--model.backbone.preprocessing",
            options.preprocessing or "null",
            "--model.backbone.layer",
            layer,
            "--model.backbone.pooling",
            pooling,
            "--model.backbone.image_size",
            size,
            "--model.network.filters",
            f"[{CHANNELS[layer]}]",
            "--trainer.logger",
            "false",
            "--trainer.default_root_dir",
            folder,
            *options.more,
        ]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(folder).glob("runs/*/*")
        run = RunFolder(path)
        record = run.read_record()
        validation = [row["val_acc"] for row in run.read_history() if "val_acc" in row]
    figures = {name: record[name] for name in ("test_acc", "test_loss", "trainable_parameters", "images")}
    return {**figures, "val_acc": max(validation, default=None)}


def write(figures: dict[str, Any], settings: dict[str, Any]) -> None:
    rows = [
        [
            *cell.split(", "),
            f"{figure['trainable_parameters']:,}",
            "" if figure["val_acc"] is None else f"{figure['val_acc']:.2%}",
            f"{figure['test_acc']:.2%}",
        ]
        for cell, figure in figures.items()
    ]
    columns = ["layer", "pooling", "size", "head", "parameters", "validation", "test"]
    publish("transfer_table", "Heads on frozen features", columns, rows, {"settings": settings, "cells": figures})


if __name__ == "__main__":
    main()
