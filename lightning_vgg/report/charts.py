"""The report's pictures: SVG whose colours come from the page's style sheet, so that they follow light and dark.

Every picture is about 360 units wide, which a phone shows as they are. ``arm-N`` colours whatever belongs to an arm;
an arm also has its dashes, so that colour is not needed to tell the lines apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from lightning_vgg.report.words import decades, percent, points

WIDTH = 360
COLOURS = 6
"""That the style sheet has: arm-0 for the reference, which is neutral, and the others in turn."""
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2", "1 3")
"""Of the arms' lines in turn; the reference's is whole, and lies below the others."""

Scale = Callable[[float], float]


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """A linear scale from values to units of the picture."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between low and high, steps of 1, 2, or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def order(arms: Sequence[str], reference: str, arm: str) -> int:
    """0 for the reference, then the others from 1."""
    return [reference, *(name for name in arms if name != reference)].index(arm)


def colour(number: int) -> str:
    """The style class with the colour of the arm of that order."""
    return f"arm-{1 + (number - 1) % (COLOURS - 1) if number else 0}"


def stroke(number: int) -> str:
    """Class and dashes of an arm's line."""
    return f'class="line {colour(number)}" stroke-dasharray="{DASHES[number % len(DASHES)]}"'


def swatch(number: int) -> Markup:
    """A piece of an arm's line, for the legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 10" width="30" height="10" aria-hidden="true">'
        f'<line x1="1" x2="29" y1="5" y2="5" {stroke(number)}/></svg>'
    )


def difference_strip(verdict: Mapping[str, Any], seeds: Iterable[float], reach: float) -> Markup:
    """The difference with its intervals, over the margin, and those of the seeds; in points from -reach to +reach."""
    x = scale(-reach, reach, 12, WIDTH - 12)
    margin = verdict["margin"]
    body = [
        f'<rect x="{x(-margin):.1f}" y="6" width="{x(margin) - x(-margin):.1f}" height="40" class="zone"/>',
        _line(x(0), 6, x(0), 46, "axis"),
        *(_line(x(edge), 6, x(edge), 46, "edge") for edge in (-margin, margin)),
    ]
    if verdict["low"] is not None:
        body.append(_line(x(verdict["low"]), 26, x(verdict["high"]), 26, "whisker"))
        body.append(_line(x(verdict["tost_low"]), 26, x(verdict["tost_high"]), 26, "interval"))
    body += [_dot(x(value), 38, 2.5, "seed") for value in seeds]
    body.append(_dot(x(verdict["difference"]), 26, 5, "mean"))
    apart = x(margin) - x(0) > 28
    for value in (-margin, 0.0, margin) if apart else ticks(-reach, reach, 4):
        body.append(_text(x(value), 62, points(value).replace(".00", ""), "middle"))
    label = f"Difference {points(verdict['difference'])} points"
    if verdict["low"] is not None:
        label += f", 95 % interval {points(verdict['low'])} to {points(verdict['high'])}"
    return _svg(68, f"{label}, margin {points(margin)} points", body, f"strip {verdict['verdict']}")


def curve_panel(
    curves: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]], reference: str, column: str, title: str
) -> Markup | None:
    """One column of history.csv over the epochs: a line an arm, the mean, in a band from lowest to highest seed."""
    drawn = {arm: columns[column] for arm, columns in curves.items() if column in columns}
    if not drawn:
        return None
    factor = 100 if column.endswith("acc") else 1
    values = [point[edge] * factor for points_ in drawn.values() for point in points_ for edge in ("low", "high")]
    epochs = [point["epoch"] for points_ in drawn.values() for point in points_]
    pad = (max(values) - min(values)) * 0.04 or 1
    low, high = min(values) - pad, max(values) + pad
    x = scale(min(epochs), max(max(epochs), min(epochs) + 1), 40, WIDTH - 8)
    y = scale(low, high, 196, 24)
    body = [_text(0, 12, title, "start", "title")]
    for tick in ticks(low, high):
        body += [_line(40, y(tick), WIDTH - 8, y(tick), "grid"), _text(34, y(tick) + 4, f"{tick:g}", "end")]
    for epoch in ticks(min(epochs), max(max(epochs), min(epochs) + 1), 6):
        if epoch == int(epoch):
            body.append(_text(x(epoch), 213, f"{epoch:g}", "middle"))
    body.append(_text(WIDTH - 8, 228, "epoch", "end"))
    numbers = sorted((order(list(curves), reference, arm), arm) for arm in drawn)
    for number, arm in numbers:
        edge = [(x(point["epoch"]), y(point["low"] * factor)) for point in drawn[arm]]
        edge += [(x(point["epoch"]), y(point["high"] * factor)) for point in reversed(drawn[arm])]
        body.append(f'<path d="{_path(edge)}Z" class="band {colour(number)}"/>')
    for number, arm in numbers:
        line = [(x(point["epoch"]), y(point["mean"] * factor)) for point in drawn[arm]]
        body.append(f'<path d="{_path(line)}" {stroke(number)}/>')
        if len(line) == 1:
            body.append(_dot(*line[0], 3, f"point {colour(number)}"))
    ends = ", ".join(f"{arm} {drawn[arm][-1]['mean'] * factor:.4g}" for arm in drawn)
    return _svg(232, f"{title} over {max(epochs)} epochs; means of the last epoch: {ends}", body)


def class_dots(
    per_class: Mapping[str, Sequence[Mapping[str, float] | None]],
    reference: str,
    names: Sequence[str],
    rows: Sequence[int],
) -> Markup:
    """Accuracy of the classes ``rows``: a dot an arm, the mean, on a line from the lowest to the highest seed."""
    arms = list(per_class)
    left, step = _label_width(names[row] for row in rows), 12 + 6 * len(arms)
    seen = [point["low"] for values in per_class.values() for row in rows if (point := values[row])]
    low = min(math.floor(min(seen) * 20) / 20, 0.95) if seen else 0.0
    x = scale(low, 1, left, WIDTH - 20)
    bottom = step * len(rows) + 6
    body = []
    for tick in ticks(low, 1, 4):
        body += [_line(x(tick), 4, x(tick), bottom, "grid"), _text(x(tick), bottom + 15, f"{tick:.0%}", "middle")]
    for index, row in enumerate(rows):
        top = 6 + index * step
        body.append(_text(left - 8, top + step / 2 + 4, names[row], "end", "name"))
        for place, arm in enumerate(arms):
            point, y = per_class[arm][row], top + 9 + 6 * place
            if point:
                style = colour(order(arms, reference, arm))
                body.append(_line(x(point["low"]), y, x(point["high"]), y, f"range {style}"))
                body.append(_dot(x(point["mean"]), y, 3.2, f"point {style}"))
    return _svg(
        bottom + 20, f"Test accuracy of {len(rows)} classes in {len(arms)} arms; the table has the numbers", body
    )


def confusion_map(matrix: Sequence[Sequence[int]], names: Sequence[str], arm: str) -> Markup:
    """Share of each class (row) that was taken for each class (column), in percent."""
    left = _label_width(names)
    cell = (WIDTH - left - 2) / len(names)
    upright = max(map(len, names)) <= 3
    below = 18 if upright else left * 0.75
    size = min(13.0, cell * 0.4)
    body = []
    for true, row in enumerate(matrix):
        total = sum(row)
        y = true * cell
        body.append(_text(left - 6, y + cell / 2 + 4, names[true], "end", "name"))
        for predicted, taken in enumerate(row):
            share = taken / total if total else 0.0
            x, right = left + predicted * cell, true == predicted
            shade = _shade(share, right)
            body.append(
                f'<rect x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" rx="2" '
                f'class="{"right" if right else "wrong"}" fill-opacity="{shade:.2f}"/>'
            )
            if round(100 * share):
                body.append(
                    f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + size * 0.36:.1f}" text-anchor="middle" '
                    f'class="{"on-full" if shade > 0.6 else "on-faint"}" style="font-size: {size:.1f}px">'
                    f"{100 * share:.0f}</text>"
                )
    height = cell * len(names)
    for index, name in enumerate(names):
        x = left + (index + 0.5) * cell
        turned = "" if upright else f' transform="rotate(-45 {x:.1f} {height + 12:.1f})"'
        anchor = "middle" if upright else "end"
        body.append(
            f'<text x="{x:.1f}" y="{height + (15 if upright else 12):.1f}" text-anchor="{anchor}" class="name"{turned}>'
            f"{escape(name)}</text>"
        )
    right_share = sum(matrix[index][index] for index in range(len(names))) / max(1, sum(map(sum, matrix)))
    return _svg(height + below, f"Confusion matrix of {arm}: {percent(right_share)} on the diagonal", body)


def reliability_diagram(calibration: Mapping[str, Any], style: str, arm: str) -> Markup:
    """Accuracy against confidence, a dot a bin, its area as the share of the images; the diagonal is perfect."""
    x, y = scale(0, 1, 40, WIDTH - 12), scale(0, 1, 296, 10)
    bins = calibration["bins"]
    images = sum(each["images"] for each in bins)
    body = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        body += [_line(40, y(tick), WIDTH - 12, y(tick), "grid"), _text(34, y(tick) + 4, f"{tick:.0%}", "end")]
        body.append(_text(x(tick), 313, f"{tick:.0%}", "end" if tick == 1 else "middle"))
    body.append(_line(x(0), y(0), x(1), y(1), "axis"))
    body.append(
        f'<path d="{_path((x(each["confidence"]), y(each["accuracy"])) for each in bins)}" class="line {style}"/>'
    )
    for each in bins:
        radius = 2 + 9 * math.sqrt(each["images"] / images)
        body.append(_dot(x(each["confidence"]), y(each["accuracy"]), radius, f"bubble {style}"))
    body += [_text(46, 22, "accuracy", "start"), _text(WIDTH - 12, 288, "confidence", "end")]
    return _svg(318, f"Reliability of {arm}: expected calibration error {percent(calibration['error']['mean'])}", body)


def decade_strip(row: Mapping[str, Any]) -> Markup:
    """A rung's distances on a scale of decades from 1e-17 to 1e1: measured (dots), gates (bars), controls (ticks)."""
    x = scale(-17, 1, 4, 176)
    body = [_line(4, 10, 176, 10, "grid")]
    for precision in ("float64", "float32"):
        rung = row[precision]
        if rung is None:
            continue
        if rung["limit"]:
            body.append(_line(x(decades(rung["limit"])), 2, x(decades(rung["limit"])), 18, f"gate {precision}"))
        if rung["control"]:
            body.append(_line(x(decades(rung["control"])), 6, x(decades(rung["control"])), 14, "control"))
        measured = min(rung["measured"], 10.0) if rung["measured"] is not None else 10.0
        body.append(_dot(x(decades(measured)), 10, 4, f"{precision}{'' if rung['passed'] else ' failed'}"))
    return _svg(20, None, body, "decades", width=180)


def decade_bar(distance: float) -> Markup:
    """A bar on a scale of decades from 1e-6 to 1e2."""
    x = scale(-6, 2, 0, 120)
    width = min(120.0, max(0.0, x(decades(distance))))
    return _svg(
        12, None, [f'<rect x="0" y="2" width="{width:.1f}" height="8" rx="2" class="bar"/>'], "decades", width=120
    )


def _shade(share: float, right: bool) -> float:
    """Opacity of a cell; faults are few, so the root of their share is shown."""
    return 0.12 + 0.78 * share**2 if right else min(1.0, 0.04 + 1.6 * math.sqrt(share))


def _label_width(names: Iterable[str]) -> float:
    return 14 + 6.4 * min(12, max(map(len, names)))


def _svg(height: float, label: str | None, body: Sequence[str], style: str = "", width: float = WIDTH) -> Markup:
    """A picture; without a label it only repeats what stands beside it."""
    role = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg class="chart {style}" viewBox="0 0 {width:g} {height:.0f}" {role}>{"".join(body)}</svg>')


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _dot(x: float, y: float, radius: float, style: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{style}"/>'


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def _path(points_: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points_)
