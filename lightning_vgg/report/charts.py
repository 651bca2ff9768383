"""The report's charts.

An arm has its dashes as well as its colour, so that colour is not needed to tell the lines apart. Legends, and the bars
and dots inside table cells, are plain HTML: dozens of small figures would be slow and long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.report.svg import PAINT, chart
from lightning_vgg.report.words import interval_of, percent, points, power_of_ten

DASHES = ((), (7, 3), (2, 2.5), (9, 3, 2, 3), (4, 2), (1, 3))
"""Of the arms' lines in turn; the reference's is solid, and lies below the others."""
WIDE, NARROW = 340, 290
"""Pixels: of a chart in one or two columns, and in three. A phone shows either as it is."""


def colour(number: int) -> str:
    """The style sheet's variable with the colour of the arm of that number; 0 is the reference."""
    return f"arm-{1 + (number - 1) % 5 if number else 0}"


def swatch(number: int) -> Markup:
    """A piece of an arm's line, for the legend."""
    dashes = " ".join(map(str, _dashes(number)))
    line = f'<path d="M1 5H29" stroke-width="2" stroke-dasharray="{dashes}" style="stroke: var(--{colour(number)})"/>'
    return Markup(f'<svg class="swatch" viewBox="0 0 30 10" width="30" height="10" aria-hidden="true">{line}</svg>')


@chart
def difference_strip(figure: Figure, verdict: PlainDict, seeds: Iterable[float], reach: float) -> str:
    """A difference with its intervals over the margin, and those of the seeds; all fractions, from -reach to reach."""
    axes = _axes(figure, 74)
    axes.grid(False)
    difference, margin = verdict["difference"], verdict["margin"]
    axes.axvspan(-margin, margin, color=PAINT["zone"], linewidth=0)
    axes.axvline(0, color=PAINT["muted"], linewidth=1)
    for edge in (-margin, margin):
        axes.axvline(edge, color=PAINT["good"], linewidth=1, linestyle=(0, (2, 3)))
    label = f"Difference of {verdict['arm']} and {verdict['reference']}: {points(difference)} points"
    if verdict["low"] is not None:
        axes.hlines(0.5, verdict["low"], verdict["high"], PAINT["text"], linewidth=1.4)
        axes.hlines(0.5, verdict["tost_low"], verdict["tost_high"], PAINT["text"], linewidth=5, alpha=0.45)
        label += f", {interval_of(verdict)}"
    for seed in seeds:
        axes.plot(seed, 0.2, "o", color=PAINT["muted"], fillstyle="none", markersize=5)
    axes.plot(difference, 0.5, "o", color=PAINT["text"], markeredgecolor=PAINT["card"], markersize=11)
    axes.set(xlim=(-reach, reach), ylim=(0, 1), yticks=[])
    axes.xaxis.set_major_locator(FixedLocator([-margin, 0, margin]) if margin > 0.18 * reach else MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda tick, _: points(tick).replace(".00", ""))
    axes.tick_params(labelsize=13)
    return f"{label}, margin {points(margin)} points"


@chart
def curve_panel(
    figure: Figure, curves: Mapping[str, Sequence[Mapping[str, float]]], number: Mapping[str, int], title: str
) -> str:
    """A column of history.csv over the epochs: an arm's mean as a line, in a band from lowest to highest seed.

    Args:
        figure: to draw on.
        curves: arm -> its points: epoch, mean, low, high.
        number: arm -> its number, 0 for the reference.
        title: of the panel; where it names percent, the points are fractions.
    """
    axes = _axes(figure, 220)
    ends = []
    for arm, rows in curves.items():
        epochs = [row["epoch"] for row in rows]
        factor = 100 if "%" in title else 1
        mean, low, high = (np.array([row[key] for row in rows]) * factor for key in ("mean", "low", "high"))
        paint, above = PAINT[colour(number[arm])], 0.01 * number[arm]
        axes.fill_between(epochs, low, high, color=paint, alpha=0.13, linewidth=0)
        (line,) = axes.plot(epochs, mean, color=paint, linestyle=(0, _dashes(number[arm]) or None), zorder=2 + above)
        line.set(linewidth=2 if above else 2.6, marker="o" if len(rows) == 1 else "")
        ends.append(f"{arm} {mean[-1]:.4g}")
    figure.suptitle(title, x=0, ha="left")
    axes.grid(axis="x", visible=False)
    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("epoch", loc="right")
    last = max(row["epoch"] for rows in curves.values() for row in rows)
    return f"{title} over {last} epoch{'s' if last > 1 else ''}; means of the last epoch: {', '.join(ends)}"


@chart
def twin_distances(figure: Figure, twin: PlainDict) -> str:
    """How far apart the twins' weights are after each step, on logarithmic axes."""
    axes = _axes(figure, 220)
    steps, distances = np.array(twin["distances"]).T
    axes.plot(steps, np.maximum(distances, 1e-17), color=PAINT["arm-1"])
    axes.axhline(2.0**-53, color=PAINT["muted"], linewidth=1, linestyle=(0, (2, 3)))
    axes.annotate("rounding of one number", (1, 2.0**-53), (2, 3), textcoords="offset points", fontsize=10)
    _over_steps(axes, 1e-17, max(1e-8, 2 * distances.max()))
    figure.suptitle("Distance of the weights", x=0, ha="left")
    return f"Distance of the twins' weights over {int(steps[-1])} steps; at the end {distances[-1]:.1e}"


HORIZON_PAINTS = {"Keras": "arm-1", "one ulp": "muted", "other kernels": "muted"}
"""Of the arms of the horizon; wrong defaults share a third colour."""


@chart
def horizon_panel(figure: Figure, horizons: Sequence[PlainDict], quantity: str) -> str:
    """How far trainings are from Lightning's, after each step, in one precision, on logarithmic axes.

    Args:
        figure: to draw on.
        horizons: of that precision, one an arm.
        quantity: ``weights``, a distance, or ``predictions``, a share of the test images.
    """
    axes = _axes(figure, 200)
    lowest = {"weights": 1e-17, "predictions": 1e-4}[quantity]
    for number, each in enumerate(horizons):
        paint = PAINT[HORIZON_PAINTS.get(each["arm"], "arm-2")]
        values = np.maximum(each[quantity], lowest)
        axes.plot(each["steps"], values, color=paint, linestyle=(0, _dashes(number) or None))
    _over_steps(axes, lowest, 3)
    title = {"weights": "weights", "predictions": "other predictions"}[quantity]
    figure.suptitle(f"{horizons[0]['precision']}: {title}", x=0, ha="left")
    ends = ", ".join(f"{each['arm']} {each[quantity][-1]:.1e}" for each in horizons)
    return f"{horizons[0]['precision']}, {title} after {horizons[0]['steps'][-1]} steps: {ends}"


@chart
def class_dots(
    figure: Figure,
    per_class: Mapping[str, Sequence[Mapping[str, float] | None]],
    number: Mapping[str, int],
    names: Sequence[str],
    rows: Sequence[int],
) -> str:
    """Accuracy of the classes ``rows``: a dot an arm, the mean, on a line from the lowest to the highest seed."""
    lines = len(per_class) + 2  # of six pixels in a row: one an arm, two between the rows
    axes = _axes(figure, 6 * lines * len(rows) + 34)
    for place, (arm, classes) in enumerate(per_class.items()):
        paint = PAINT[colour(number[arm])]
        for row, of_class in enumerate(rows):
            if point := classes[of_class]:
                y = row + (place - (len(per_class) - 1) / 2) / lines
                axes.hlines(y, point["low"], point["high"], paint, linewidth=1.4, alpha=0.55)
                axes.plot(point["mean"], y, "o", color=paint)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(None, 1), ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_yticks(range(len(rows)), [_short(names[row]) for row in rows], color=PAINT["text"])
    return f"Test accuracy of {len(rows)} classes in {len(per_class)} arms; the table has the numbers"


@chart
def confusion_map(figure: Figure, matrix: Sequence[Sequence[int]], names: Sequence[str], arm: str) -> str:
    """Share of each true class (row) that was predicted as each class (column), in percent."""
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(len(names), dtype=bool)
    cells = np.where(right[..., None], to_rgba(PAINT["arm-1"]), to_rgba(PAINT["arm-2"]))
    # At most half opaque, so that text can be read on every cell.
    cells[..., 3] = np.where(right, 0.1 + 0.4 * shares**2, np.minimum(0.5, 0.04 + 0.8 * np.sqrt(shares)))
    side = NARROW if len(names) <= 10 else 1.5 * NARROW
    axes = _axes(figure, side, side)
    edges = np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(edges, edges, cells, edgecolor=PAINT["card"], linewidth=1)
    for true, predicted in np.argwhere(np.round(100 * shares)):
        percentage = f"{100 * shares[true, predicted]:.0f}"
        axes.text(predicted, true, percentage, ha="center", va="center_baseline", fontsize=9)
    axes.grid(False)
    axes.set(aspect="equal", ylim=(edges[-1], edges[0]))
    labels = [_short(name) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=10, color=PAINT["text"])
    turn: PlainDict = {"rotation": 45, "rotation_mode": "anchor", "ha": "right"}
    axes.set_xticks(
        range(len(names)), labels, fontsize=10, color=PAINT["text"], **(turn if max(map(len, labels)) > 3 else {})
    )
    return f"Confusion matrix of {arm}: {percent(counts.trace() / max(1, counts.sum()))} on the diagonal"


@chart
def reliability_diagram(figure: Figure, calibration: PlainDict, number: int, arm: str) -> str:
    """Accuracy against confidence, a dot a bin, its area as the share of the images; the diagonal is perfect."""
    axes = _axes(figure, NARROW, NARROW)
    images, confidence, accuracy = (
        np.array([each[key] for each in calibration["bins"]]) for key in ("images", "confidence", "accuracy")
    )
    paint = PAINT[colour(number)]
    axes.plot([0, 1], [0, 1], color=PAINT["muted"], linewidth=1)
    axes.plot(confidence, accuracy, color=paint)
    areas = np.maximum(8, 400 * images / images.sum())
    axes.scatter(confidence, accuracy, areas, facecolor=to_rgba(paint, 0.45), edgecolor=paint)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.tick_params(labelsize=10)
    axes.set_xlabel("confidence", fontsize=10, loc="right")
    axes.set_ylabel("accuracy", fontsize=10, loc="top")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
    return f"Reliability of {arm}: expected calibration error {percent(calibration['error']['mean'])}"


def _over_steps(axes: Axes, lowest: float, highest: float) -> None:
    """Both axes logarithmic: steps, and distances in powers of ten."""
    axes.set(xscale="log", yscale="log", ylim=(lowest, highest))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda tick, _: power_of_ten(tick).replace("1.0", "1"))
    axes.minorticks_off()
    axes.set_xlabel("step", loc="right")


def _dashes(number: int) -> tuple[float, ...]:
    return DASHES[number % len(DASHES)]


def _short(name: str) -> str:
    """At most 16 characters: long names differ at their start or at their end."""
    return name if len(name) <= 16 else f"{name[:9]}…{name[-6:]}"


def _axes(figure: Figure, height: float, width: float = WIDE) -> Axes:
    figure.set_size_inches(width / 72, height / 72)
    return figure.add_subplot(frameon=False)
