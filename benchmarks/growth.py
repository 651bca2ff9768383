"""How time and memory of a training grow with images, classes, image size and depth.

    python benchmarks/growth.py --root IMAGES.tar.xz

Each point is one epoch of ``lightning-vgg fit`` in a process of its own; the exponent is the slope of a straight line
through the logarithms (least squares), 1 for what grows in proportion. growth.png beside the JSON shows the curves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import CONFIGS, add_images, benchmark_parser, image_settings, publish, train
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

MEASURES = {"seconds": ("seconds", 1.0, "#1f6feb"), "peak_memory_bytes": ("peak memory, MB", 1e6, "#9a6700")}
"""What is measured -> its name, what is divided by, the colour of its curve."""


def main() -> None:
    parser = benchmark_parser("growth", __doc__)
    add_images(parser)
    options = parser.parse_args()
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for along, points in series(options.root, Path(folder)):
            measured = [epoch({**settings, "data.cache_dir": Path(folder, "cache")}) for settings in points.values()]
            sizes = list(points)
            figures[along] = {"sizes": sizes, "points": measured}
            for what, (name, scale, _) in MEASURES.items():
                values = [point[what] for point in measured]
                exponent = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
                figures[along][f"exponent_of_{what}"] = exponent
                curve = "  ".join(f"{size}: {value / scale:.3g}" for size, value in zip(sizes, values, strict=True))
                rows.append([along, name, curve, f"{exponent:z.2f}"])
    columns = ["along", "what", "size: value", "exponent"]
    publish(options.output, "Growth of one epoch", columns, rows, figures)
    draw(figures, options.output.with_suffix(".png"))


def series(root: str, folder: Path) -> Iterator[tuple[str, dict[int, dict[str, Any]]]]:
    """What grows, and its sizes with the settings of each."""
    some = image_settings(root, 2000)
    yield "images", {size: image_settings(root, size) for size in (5000, 10000, 20000, 50000)}
    yield "classes", {size: image_settings(str(noise(folder, size)), 4000) for size in (10, 100, 1000)}
    yield "pixels a side", {size: {**some, "data.image_size": size} for size in (16, 32, 64)}
    yield (
        "convolutions",
        {
            2 * convolutions: {
                **some,
                "model.network.conv_block": f"(conv - batch norm) x{convolutions} - maxpool",
                "model.network.filters": [64, 64],
            }
            for convolutions in (1, 2, 4, 8)
        },
    )


def noise(folder: Path, classes: int) -> Path:
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


def epoch(settings: dict[str, Any]) -> dict[str, float]:
    """Seconds of its training steps, and the largest memory of the process."""
    of_one = {"trainer.max_epochs": 1, "trainer.limit_test_batches": 1, "trainer.logger": False}
    record, _ = train("lightning-vgg", CONFIGS / "vgg" / "base.yaml", settings, of_one)
    seconds = record["images"]["train"] / record["images_per_second"]
    return {"seconds": seconds, "peak_memory_bytes": record["peak_memory_bytes"]}


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
