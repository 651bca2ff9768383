"""How time and memory of a training grow with images, classes, image size and depth.

    python benchmarks/growth.py --root IMAGES.tar.xz

Each point is one epoch of ``lightning-vgg fit`` in a process of its own; the exponent is the slope of a straight line
through the logarithms (least squares), 1 for what grows in proportion. growth.png beside the JSON shows the curves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, ROOT, publish
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

PROGRAM = Path(sys.executable).parent / "lightning-vgg"
MEASURES = {"seconds": ("seconds", 1.0, "#1f6feb"), "peak_memory_bytes": ("peak memory, MB", 1e6, "#9a6700")}
"""Key in run.json's figures -> its name, what is divided by, the colour of its curve."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    options = parser.parse_args()
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for along, points in series(options.root, Path(folder)):
            measured = [epoch(Path(folder), arguments) for _, arguments in points]
            sizes = [size for size, _ in points]
            figures[along] = {"sizes": sizes, "points": measured}
            for what, (name, scale, _) in MEASURES.items():
                values = [point[what] for point in measured]
                exponent = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
                figures[along][f"exponent_of_{what}"] = exponent
                curve = "  ".join(f"{size}: {value / scale:.3g}" for size, value in zip(sizes, values, strict=True))
                rows.append([along, name, curve, f"{exponent:z.2f}"])
    publish("growth", "Growth of one epoch", ["along", "what", "size: value", "exponent"], rows, figures)
    draw(figures, RESULTS / "growth.png")


def series(root: str, folder: Path) -> Iterator[tuple[str, list[tuple[int, list[str]]]]]:
    """What grows, and (its size, the arguments of fit) point by point."""
    images = ["--data.source", "folder", "--data.root", root]
    some = [*images, "--data.train_images", "2000"]
    yield "images", [(n, [*images, "--data.train_images", str(n)]) for n in (5000, 10000, 20000, 50000)]
    yield (
        "classes",
        [(n, ["--data.source", "folder", "--data.root", str(of_classes(folder, n))]) for n in (10, 100, 1000)],
    )
    yield "pixels a side", [(n, [*some, "--data.image_size", str(n)]) for n in (16, 32, 64)]
    yield (
        "convolutions",
        [
            (
                2 * n + 2,
                [
                    *some,
                    "--model.network.conv_block",
                    f"(conv - batch norm) x{n + 1} - maxpool",
                    "--model.network.filters",
                    "[64,64]",
                ],
            )
            for n in (0, 1, 3, 7)
        ],
    )


def of_classes(folder: Path, classes: int) -> Path:
    """A folder of 4,000 images of noise for training and one for the test of each class."""
    random = np.random.default_rng(0)
    root = folder / f"{classes}classes"
    for part, count in (("train", 4000 // classes), ("test", 1)):
        for number in range(classes):
            of_class = root / part / f"{number:04}"
            of_class.mkdir(parents=True)
            for image in range(count):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(of_class / f"{image}.png")
    return root


def epoch(folder: Path, arguments: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        command = [
            PROGRAM,
            "fit",
            "-c",
            ROOT / "configs" / "vgg" / "base.yaml",
            "--data.validation_fraction",
            "0",
            "--trainer.max_epochs",
            "1",
            "--trainer.logger",
            "false",
            "--trainer.default_root_dir",
            runs,
            "--data.cache_dir",
            folder / "cache",
            "--trainer.limit_test_batches",
            "1",
            *arguments,
        ]
        subprocess.run(command, check=True, capture_output=True)
        (record,) = Path(runs).glob("runs/*/*/run.json")
        found = json.loads(record.read_text())
    seconds = found["images"]["train"] / found["images_per_second"]
    return {"seconds": seconds, "peak_memory_bytes": found["peak_memory_bytes"]}


def draw(figures: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel of logarithmic axes for each thing that grows, above the time and below the memory of one epoch."""
    figure = Figure(figsize=(4 * len(figures), 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(MEASURES), len(figures), sharey="row", squeeze=False)
    for row, (what, (name, scale, colour)) in zip(panels, MEASURES.items(), strict=True):
        for axes, (along, found) in zip(row, figures.items(), strict=True):
            values = [point[what] / scale for point in found["points"]]
            axes.loglog(found["sizes"], values, color=colour, linewidth=2.6, marker="o")
            axes.set_title(f"exponent {found[f'exponent_of_{what}']:z.2f}", fontsize=12, color="#30363d")
            axes.set_xlabel(along, fontsize=13)
            axes.set_xticks(found["sizes"])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
            axes.grid(color="#d8dee4", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(name, fontsize=13)
    figure.savefig(path)


if __name__ == "__main__":
    main()
