"""The report's charts show the values they are given, in the page's colours."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import matplotlib
import pytest
from markupsafe import Markup

from lightning_vgg.report.charts import class_dots, confusion_map, curve_panel, difference_strip, reliability_diagram

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
NUMBER = {"keras": 0, "lightning": 1}
VERDICT = {
    "arm": "lightning",
    "reference": "keras",
    "difference": 0.002,
    "level": 0.95,
    "low": -0.004,
    "high": 0.008,
    "tost_low": -0.003,
    "tost_high": 0.007,
    "margin": 0.01,
}
CURVES = {
    arm: [{"epoch": epoch, "mean": mean / epoch, "low": low / epoch, "high": high / epoch} for epoch in (1, 2, 3)]
    for arm, mean, low, high in (("keras", 1.0, 0.9, 1.2), ("lightning", 2.0, 2.0, 2.0))
}
PER_CLASS = {
    "keras": [{"mean": 0.8, "low": 0.7, "high": 0.9}, None],
    "lightning": [{"mean": 0.9, "low": 0.85, "high": 0.95}, {"mean": 0.6, "low": 0.6, "high": 0.6}],
}
CALIBRATION = {
    "error": {"mean": 0.0123},
    "bins": [{"images": 100, "confidence": 0.5, "accuracy": 0.4}, {"images": 400, "confidence": 0.9, "accuracy": 1.0}],
}


def charts() -> list[Markup]:
    return [
        difference_strip(VERDICT, [0.001, 0.003], 0.0159),
        difference_strip({**VERDICT, "arm": "other"}, [0.001, 0.003], 0.0159),
        curve_panel(CURVES, NUMBER, "Validation loss (nats)"),
        class_dots(PER_CLASS, NUMBER, ["cat", "dog"], [0, 1]),
        confusion_map([[8, 2], [0, 10]], ["cat", "<dog>"], "keras"),
        reliability_diagram(CALIBRATION, 1, "lightning"),
    ]


def tree(chart: str) -> ElementTree.Element:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return ElementTree.fromstring(str(chart).replace("<svg", f"<svg {names}", 1))


def texts(chart: Markup) -> list[str]:
    return [text.text or "" for text in tree(chart).iter(f"{SVG}text")]


def position(chart: Markup, label: str) -> tuple[float, float]:
    """Of the text: x, and the y of its base line."""
    (found,) = (text for text in tree(chart).iter(f"{SVG}text") if text.text == label)
    return float(found.attrib["x"]), float(found.attrib["y"])


def paths(chart: Markup, style: str) -> list[list[tuple[float, float]]]:
    """Points of each path with this in its style, in the order of drawing."""
    found = []
    for path in tree(chart).iter(f"{SVG}path"):
        if style in path.attrib.get("style", "") and "id" not in path.attrib:
            numbers = [float(number) for number in re.findall(r"[-\d.]+", path.attrib["d"])]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def bands(chart: Markup) -> dict[str, list[tuple[float, float]]]:
    """Arm -> corners of its band."""
    found = {}
    root = tree(chart)
    shapes = {path.attrib["id"]: path.attrib["d"] for path in root.iter(f"{SVG}path") if "id" in path.attrib}
    for use in root.iter(f"{SVG}use"):
        arm = re.match(r"fill: var\(--(arm-\d)\); fill-opacity: 0.13", use.attrib["style"])
        if arm:
            numbers = [float(number) for number in re.findall(r"[-\d.]+", shapes[use.attrib[f"{XLINK}href"][1:]])]
            height = float(use.attrib["y"])
            found[arm[1]] = [(x, height + y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return found


def dots(chart: Markup, paint: str) -> list[tuple[float, float]]:
    return [
        (float(use.attrib["x"]), float(use.attrib["y"]))
        for use in tree(chart).iter(f"{SVG}use")
        if f"fill: var(--{paint}); stroke" in use.attrib["style"]
    ]


def test_the_same_values_give_the_same_bytes_whatever_style_the_user_has_set() -> None:
    plain = charts()
    with matplotlib.rc_context({"font.size": 30, "lines.markersize": 20, "xtick.labelsize": 30, "svg.hashsalt": "x"}):
        before = dict(matplotlib.rcParams)
        assert charts() == plain
        assert dict(matplotlib.rcParams) == before


def test_colours_are_the_pages_and_no_id_is_used_twice() -> None:
    page = "".join(charts())
    assert set(re.findall(r"#\w+", page)) == {f"#{name}" for name in re.findall(r' id="(\w+)"', page)}
    assert "url(" not in page and "font-family" not in page
    ids = re.findall(r' id="(\w+)"', page)
    assert len(ids) == len(set(ids)) > 0
    painted = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", page))
    assert all(re.fullmatch(r"none|var\(--[\w-]+\)", paint) for paint in painted), painted


def test_the_difference_lies_with_its_intervals_on_the_scale_of_the_margin() -> None:
    chart = difference_strip(VERDICT, [0.001, 0.003], 0.0159)
    assert texts(chart) == ["−1", "0", "+1"]
    assert 'aria-label="Difference of lightning and keras: +0.20 points, 95 % interval −0.40 to +0.80' in chart
    left, zero, right = (position(chart, label)[0] for label in ("−1", "0", "+1"))
    assert right - zero == pytest.approx(zero - left, abs=0.05)

    def x(value: float) -> float:
        return pytest.approx(zero + (right - zero) * value / 0.01, abs=0.05)

    (zone,) = paths(chart, "fill: var(--zone)")
    assert (min(zone)[0], max(zone)[0]) == (x(-0.01), x(0.01))
    whisker, interval = paths(chart, "stroke: var(--text)")
    assert [point[0] for point in whisker] == [x(-0.004), x(0.008)]
    assert [point[0] for point in interval] == [x(-0.003), x(0.007)]
    (mean,) = dots(chart, "text")
    assert mean[0] == x(0.002)
    rings = [use for use in tree(chart).iter(f"{SVG}use") if "stroke: var(--muted)" in use.attrib["style"]]
    assert [float(ring.attrib["x"]) for ring in rings] == [x(0.001), x(0.003)]


def test_one_seed_has_no_interval_and_a_narrow_margin_round_ticks() -> None:
    chart = difference_strip({**VERDICT, "low": None, "high": None, "difference": 0.05}, [], 0.1)
    assert paths(chart, "stroke: var(--text)") == []
    assert "interval" not in chart
    assert texts(chart) == ["−10", "−5", "0", "+5", "+10"]


def test_curves_are_lines_in_bands() -> None:
    chart = curve_panel(CURVES, NUMBER, "Validation loss (nats)")
    assert texts(chart) == ["1", "2", "3", "epoch", "0.5", "1", "1.5", "2", "Validation loss (nats)"]
    assert "means of the last epoch: keras 0.3333, lightning 0.6667" in chart
    grid = [line[0][1] for line in paths(chart, "stroke: var(--rule)")]
    zero, unit = grid[0] + (grid[0] - grid[1]), grid[1] - grid[3]

    def heights(points: list[tuple[float, float]]) -> list[float]:
        return [(zero - y) / unit for _, y in points]

    (keras,) = paths(chart, "fill: none; stroke: var(--arm-0)")
    (lightning,) = paths(chart, "stroke-dasharray: 7,3; stroke-dashoffset: 0; stroke: var(--arm-1)")
    assert heights(keras) == pytest.approx([1, 1 / 2, 1 / 3], abs=0.002)
    assert heights(lightning) == pytest.approx([2, 1, 2 / 3], abs=0.002)
    assert [x for x, _ in keras] == [x for x, _ in lightning]
    band = bands(chart)["arm-0"]
    assert min(heights(band)) == pytest.approx(0.9 / 3, abs=0.002)
    assert max(heights(band)) == pytest.approx(1.2, abs=0.002)


def test_accuracies_are_shown_in_percent_and_a_single_epoch_as_a_dot() -> None:
    rows = [{"epoch": 1, "mean": 0.5, "low": 0.4, "high": 0.6}]
    chart = curve_panel({"keras": rows}, NUMBER, "Validation accuracy (%)")
    assert "keras 50" in chart
    assert {"40", "50", "60"} <= set(texts(chart))
    assert len(dots(chart, "arm-0")) == 1


def test_classes_have_a_dot_on_a_line_from_the_lowest_to_the_highest_seed() -> None:
    chart = class_dots(PER_CLASS, NUMBER, ["cat", "a dog with a long name"], [0, 1])
    assert texts(chart)[-2:] == ["cat", "a dog wit…g name"]
    low, high = position(chart, "60%")[0], position(chart, "100%")[0]

    def x(value: float) -> float:
        return pytest.approx(low + (high - low) * (value - 0.6) / 0.4, abs=0.05)

    assert [dot[0] for dot in dots(chart, "arm-0")] == [x(0.8)]
    assert [dot[0] for dot in dots(chart, "arm-1")] == [x(0.9), x(0.6)]
    ((start, end),) = paths(chart, "stroke: var(--arm-0)")
    assert (start[0], end[0]) == (x(0.7), x(0.9))
    assert dots(chart, "arm-0")[0][1] < dots(chart, "arm-1")[0][1] < position(chart, "a dog wit…g name")[1]


def test_confusions_are_shares_of_a_row() -> None:
    chart = confusion_map([[8, 2], [0, 10]], ["$x_1$", "水"], "keras")
    assert texts(chart) == ["$x_1$", "水", "$x_1$", "水", "80", "20", "100"]
    assert "90.00 % on the diagonal" in chart
    right, wrong = (
        [float(opacity) for opacity in re.findall(rf"fill: var\(--{paint}\); fill-opacity: ([\d.]+)", chart)]
        for paint in ("arm-1", "arm-2")
    )
    assert right == sorted(right) and len(right) == 2
    assert wrong == sorted(wrong, reverse=True) and len(wrong) == 2
    assert max(*right, *wrong) <= 0.5


def test_reliability_lies_on_the_scales_with_areas_as_shares() -> None:
    chart = reliability_diagram(CALIBRATION, 1, "lightning")
    assert "expected calibration error 1.23 %" in chart
    labels = texts(chart)
    assert labels.count("0%") == labels.count("100%") == 2 and {"confidence", "accuracy"} <= set(labels)
    (diagonal,) = paths(chart, "stroke: var(--muted)")
    (left, bottom), (right, top) = diagonal
    assert right - left == pytest.approx(bottom - top, abs=0.05)
    (line,) = paths(chart, "fill: none; stroke: var(--arm-1)")
    expected = [(left + (right - left) * x, bottom + (top - bottom) * y) for x, y in ((0.5, 0.4), (0.9, 1.0))]
    assert [pytest.approx(point, abs=0.05) for point in expected] == line
    widths = [
        max(x for x, _ in bubble) - min(x for x, _ in bubble)
        for bubble in paths(chart, "fill: var(--arm-1); fill-opacity: 0.45")
    ]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(400 / 100), rel=0.01)
