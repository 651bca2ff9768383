"""The network of a recipe as a table and as a picture, without building it."""

from __future__ import annotations

import math
from typing import IO, TYPE_CHECKING

from lightning_vgg.experiment.network_plan import NetworkPlan, PlannedLayer, Shape
from lightning_vgg.experiment.recipe import (
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    MaxPool,
    spell,
)

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS: dict[type, str] = {
    Conv: "#1f6feb",
    Dense: "#8250df",
    BatchNorm: "#bf8700",
    Dropout: "#8a96a3",
    MaxPool: "#cf222e",
    AveragePool: "#cf222e",
    GlobalAveragePool: "#cf222e",
}
_ACTIVATION = "#1a7f37"


def network_table(plan: NetworkPlan, title: str) -> Table:
    """A row a layer: name, what it is, output shape, parameters that train."""
    from rich.table import Table

    table = Table(title=title, caption=f"{plan.trainable_parameters:,} parameters")
    for column in ("layer", "what", "output", "parameters"):
        table.add_column(column, justify="right" if column in ("output", "parameters") else "left")
    table.add_row("images", "", shape_text(plan.input_shape), "")
    for number, layers in enumerate(plan.blocks.values()):
        for planned in layers:
            parameters = f"{planned.trainable_parameters:,}" if planned.trainable_parameters else ""
            table.add_row(planned.name, spell(planned.layer), shape_text(planned.output_shape), parameters)
        if number < len(plan.blocks) - 1:
            table.add_section()
    return table


def shape_text(shape: Shape) -> str:
    """``16×16×64``"""
    return "×".join(map(str, shape))


def draw_network(plan: NetworkPlan, title: str, file: IO[bytes]) -> None:
    """Draw the layers from left to right as a PNG: as tall as their output has pixels, as wide as it has channels.

    Heights are to scale, widths to that of their logarithm.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    boxes = [_Box(None, "images", plan.input_shape)] + [
        _Box(planned, spell(planned.layer), planned.output_shape) for planned in plan.layers
    ]
    gap = 0.35
    length = sum(box.width + gap for box in boxes)
    figure = Figure(figsize=(max(10.0, 0.75 * length), 6.2), dpi=100)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    axes.set_axis_off()
    axes.set_xlim(-0.3, length)
    axes.set_ylim(-2.9, 2.6)
    figure.suptitle(title, fontsize=16, fontweight="bold", color="#1b1f24")
    pixels = plan.input_shape[0]
    left = 0.0
    for box in boxes:
        height = box.height(pixels)
        axes.add_patch(
            FancyBboxPatch(
                (left, -height / 2), box.width, height, "round,pad=0,rounding_size=0.06", color=box.colour, alpha=0.9
            )
        )
        middle = left + box.width / 2
        axes.text(middle, height / 2 + 0.12, shape_text(box.shape), ha="center", va="bottom", fontsize=9, rotation=90)
        axes.text(middle, -height / 2 - 0.12, box.label, ha="center", va="top", fontsize=10, rotation=90)
        left += box.width + gap
    figure.savefig(file, format="png")


class _Box:
    def __init__(self, planned: PlannedLayer | None, label: str, shape: Shape) -> None:
        self.label = label
        self.shape = shape
        self.width = 0.15 + 0.06 * math.log2(shape[-1])
        self.colour = "#57606a" if planned is None else _COLOURS.get(type(planned.layer), _ACTIVATION)

    def height(self, pixels: int) -> float:
        """3 for as many pixels as the images have; a vector is a little square."""
        return max(0.25, 3.0 * self.shape[0] / pixels) if len(self.shape) == 3 else 0.5
