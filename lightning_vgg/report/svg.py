"""A chart of matplotlib as SVG in the page's own colours and font.

It is drawn in placeholder colours, which then become variables of the style sheet, so that it follows light, dark and
print. Its text stays text.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_VARIABLES = ("text", "muted", "rule", "good", "zone", "card", *(f"arm-{number}" for number in range(6)))
PAINT = {name: f"#facad{number:x}" for number, name in enumerate(_VARIABLES)}
"""Variable of report.css -> the colour that stands for it while matplotlib draws."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be named $
    "font.size": 12,
    "text.color": PAINT["text"],
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "axes.labelcolor": PAINT["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PAINT["rule"],
    "lines.linewidth": 2,
    "lines.scale_dashes": False,
    "lines.solid_capstyle": "butt",
    "xtick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.size": 0,
    "xtick.labelcolor": PAINT["muted"],
    "ytick.labelcolor": PAINT["muted"],
}
_NOISE = re.compile(
    r'</?g\b[^>]*>| clip-path="[^"]*"|font-family: [^;"]*; | transform="rotate\(-0 [^"]*"|(?<=\.\d\d)\d+'
)
"""What the tags can do without: groups, clipping, a font other than the page's, thousandths of a pixel."""
P = ParamSpec("P")


def chart(draw: Callable[Concatenate[Figure, P], str]) -> Callable[P, Markup]:
    """Turn a function that draws on a figure and returns what there is to see into one that returns SVG.

    A figure's unit is the pixel, 72 an inch. Its height shrinks to what is drawn. The text becomes the label for those
    who cannot see the chart; it must differ from chart to chart, because ids are made from it.
    """

    @functools.wraps(draw)
    def svg(*args: P.args, **kwargs: P.kwargs) -> Markup:
        with matplotlib.style.context(_STYLE, after_reset=True), warnings.catch_warnings():
            # What matplotlib's font lacks, the page's font may have.
            warnings.filterwarnings("ignore", "Glyph")
            figure = Figure(dpi=72, layout="constrained", frameon=False)
            label = draw(figure, *args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # a second layout would move what was measured
            drawn, width = figure.get_tightbbox().padded(0, 2 / 72), figure.get_figwidth()
            matplotlib.rcParams["svg.hashsalt"] = label
            file = io.StringIO()
            figure.savefig(file, format="svg", bbox_inches=Bbox.from_bounds(0, drawn.y0, width, drawn.height))
        body = file.getvalue()
        body = " ".join(body[body.index("<g ") : body.rindex("</g>")].split()).replace("> <", "><")
        body = re.sub("<[^>]*>", lambda tag: _lean(tag[0]), body)
        head = f'viewBox="0 0 {72 * width:.0f} {72 * drawn.height:.0f}" role="img" aria-label="{escape(label)}"'
        return Markup(f'<svg class="chart" {head}>{body}</svg>')

    return svg


def _lean(tag: str) -> str:
    for name, paint in PAINT.items():
        tag = tag.replace(paint, f"var(--{name})")
    return _NOISE.sub("", tag)
