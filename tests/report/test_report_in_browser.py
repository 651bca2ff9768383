"""The report in a real browser: wide and narrow, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_comparison, make_mistaken_run
from PIL import Image

from lightning_vgg.report import report_run, write_report
from lightning_vgg.report.comparison import read_comparison
from lightning_vgg.report.render import SECTIONS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to open the report with"),
]
WIDTHS = (1200, 360)
SCHEMES = {"dark": 0, "light": 1}
"""Name -> blink's number of it."""

# Runs in a copy of the page. Contrast by WCAG 2.2, of each element with text of its own against what it stands on.
MEASURE = """
function rgb(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function luminance(colour) {
  const [r, g, b] = rgb(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4));
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (rgb(colour).length === 3 || rgb(colour)[3] === 1) return colour;
  }
  return 'rgb(255, 255, 255)';
}
function ratio(...colours) {
  const [a, b] = colours.map(luminance).sort((x, y) => y - x);
  return (a + .05) / (b + .05);
}
const contrast = element => ratio(getComputedStyle(element).color, ground(element));
// Facts about one chart: its text as it lies on the screen, on cells that are half transparent, too.
function chart(svg) {
  const box = svg.getBoundingClientRect(), size = box.width / svg.viewBox.baseVal.width;
  const within = (outer, inner) => outer.left <= inner.left + 1 && outer.right >= inner.right - 1
    && outer.top <= inner.top + 1 && outer.bottom >= inner.bottom - 1;
  const cells = [...svg.querySelectorAll('path')].filter(path => path.style.fillOpacity < 1 && path.style.stroke)
    .map(path => [path.getBoundingClientRect(), getComputedStyle(path)]);
  const texts = [...svg.querySelectorAll('text')].map(text => ({
    text, box: text.getBoundingClientRect(), turned: text.getAttribute('transform'), style: getComputedStyle(text),
  }));
  const under = text => {
    const page = ground(svg), cell = cells.find(([box]) => within(box, text.box));
    if (!cell) return page;
    const [front, back] = [cell[1].fill, page].map(rgb), opacity = +cell[1].fillOpacity;
    return `rgb(${front.map((value, i) => opacity * value + (1 - opacity) * back[i])})`;
  };
  const meet = (a, b) => !a.turned && !b.turned && a.box.left < b.box.right - 1 && b.box.left < a.box.right - 1
    && a.box.top < b.box.bottom - 3 && b.box.top < a.box.bottom - 3;  // a line's box is higher than its letters
  const say = text => svg.getAttribute('aria-label') + ': ' + text.text.textContent;
  return {
    label: svg.getAttribute('aria-label'), texts: texts.length, font: [...new Set(texts.map(t => t.style.fontFamily))],
    smallest: Math.min(...texts.map(text => parseFloat(text.style.fontSize) * size)),
    contrast: Math.min(...texts.map(text => ratio(text.style.fill, under(text)))),
    outside: texts.filter(text => !within(box, text.box)).map(say),
    meeting: texts.filter((a, i) => texts.slice(i + 1).some(b => meet(a, b))).map(say),
    painted: [...new Set([...svg.querySelectorAll('path, use')].flatMap(shape => {
      const {fill, stroke} = getComputedStyle(shape);
      return [fill, stroke];
    }))],
  };
}
addEventListener('load', () => {
  const page = document.scrollingElement;
  const texts = [...document.querySelectorAll('body *:not(svg, svg *)')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  const faintest = texts.reduce((a, b) => contrast(a) < contrast(b) ? a : b);
  const found = {
    width: innerWidth, scroll: page.scrollWidth, height: page.scrollHeight,
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    sections: [...document.querySelectorAll('h2')].filter(h => h.getBoundingClientRect().height > 0).map(h => h.id),
    body: getComputedStyle(document.body).fontFamily,
    charts: [...document.querySelectorAll('svg.chart')].map(chart),
    pictures: [...document.querySelectorAll('svg.chart')].map(s => s.getBoundingClientRect())
      .map(box => [box.width, box.height]),
    smallest: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize))),
    contrast: contrast(faintest), faintest: faintest.outerHTML.slice(0, 200),
    images: [...document.images].map(i => [i, i.getBoundingClientRect()])
      .map(([image, box]) => [image.naturalWidth, box.width, box.height]),
    requests: performance.getEntriesByType('resource').map(entry => entry.name),
  };
  parent.postMessage(JSON.stringify(found), '*');
});
"""
# A window cannot be narrower than 500 pixels, a frame can.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark">
<iframe src="{page}" style="width: {width}px; height: 2400px; border: 0"></iframe><pre id="found"></pre>
<script>
addEventListener('message', message => {{ document.getElementById('found').textContent = message.data; }});
</script>
"""


def browse(page: Path, width: int, scheme: str, profile: Path, *flags: str) -> str:
    """What the browser says on standard output."""
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            f"--window-size={width},2400",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


def measure(page: Path, width: int, scheme: str, folder: Path, extra: str = "") -> dict[str, Any]:
    """Facts about the page as it lies before a reader; ``extra`` is put into its body."""
    text = re.sub(r"<meta http-equiv=.*?>", "", page.read_text())
    copy = folder / "measured.html"
    copy.write_text(text.replace("</body>", f"{extra}<script>{MEASURE}</script></body>"))
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(page=copy.name, width=width))
    dom = browse(frame, 1300, scheme, folder / "profile", "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r'<pre id="found">({.*?})</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    return json.loads(unescape(found[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    return write_report(read_comparison(make_comparison(folder)), folder)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_can_be_read(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    found = measure(page, width, scheme, tmp_path)
    assert found["width"] == width
    assert found["scroll"] <= width, "the page is wider than the window"
    assert found["dark"] == (scheme == "dark")
    assert found["sections"] == [anchor for anchor in SECTIONS if anchor != "mistakes"]
    assert found["requests"] == []
    assert min(min(size) for size in found["pictures"]) > 5
    assert max(size[0] for size in found["pictures"]) <= width
    assert found["smallest"] >= 11
    assert found["contrast"] >= 4.5, found["faintest"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_of_a_single_run_shows_its_pictures(tmp_path: Path, width: int, scheme: str) -> None:
    found = measure(report_run(make_mistaken_run(tmp_path / "run")), width, scheme, tmp_path)
    assert found["scroll"] <= width, "the page is wider than the window"
    assert "mistakes" in found["sections"]
    assert found["smallest"] >= 11
    assert found["contrast"] >= 4.5, found["faintest"]
    assert len(found["images"]) == 48
    for stored, *sides in found["images"]:
        assert stored == 224
        assert max(sides) - min(sides) < 1 and min(sides) > 100


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_charts_can_be_read(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    found = measure(page, width, scheme, tmp_path)
    assert len(found["charts"]) == 20
    for chart in found["charts"]:
        assert chart["texts"] >= 3, chart["label"]
        assert chart["font"] == [found["body"]]
        assert chart["smallest"] >= 8.5, chart["label"]
        assert chart["contrast"] >= 4.5, chart["label"]
        assert chart["outside"] == []
        assert chart["meeting"] == []
    # Each scheme has its own colours of the arms.
    painted = {colour for chart in found["charts"] for colour in chart["painted"]}
    blue = {"light": "rgb(36, 102, 200)", "dark": "rgb(120, 169, 247)"}
    assert painted >= {blue[scheme]} and not painted & ({*blue.values()} - {blue[scheme]})


def test_the_measure_sees_what_it_is_there_for(page: Path, tmp_path: Path) -> None:
    faults = (
        '<p style="width: 2000px">wide</p><p style="color: #999; background: #bbb; font-size: 8px">faint</p>'
        '<img src="http://127.0.0.1:9/picture.png"><svg class="chart" viewBox="0 0 100 50" aria-label="bad">'
        '<text x="0" y="20" style="font-size: 4px; fill: #eee">one</text><text x="2" y="21" style="font-size: 4px">two'
        '</text><text x="95" y="40">far</text></svg>'
    )
    found = measure(page, 360, "light", tmp_path, faults)
    assert found["scroll"] > 360
    chart = found["charts"][-1]
    assert (chart["meeting"], chart["outside"]) == (["bad: one"], ["bad: far"])
    assert chart["contrast"] < 4.5
    assert found["contrast"] < 4.5 and "faint" in found["faintest"]
    assert found["smallest"] == 8
    assert found["requests"] == ["http://127.0.0.1:9/picture.png"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_a_picture_in_its_colours(page: Path, tmp_path: Path, scheme: str) -> None:
    browse(page, 360, scheme, tmp_path / "profile", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (2400, 360)
    ground = pixels[5, 5]
    assert (ground < 40).all() if scheme == "dark" else (ground > 240).all()
    written = np.abs(pixels - ground).sum(2) > 60
    assert 0.02 < written.mean() < 0.4
    # Text or pictures all the way down: no screen of it is empty.
    assert all(part.mean() > 0.005 for part in np.array_split(written, 6))
    # The lines of the arms have colour.
    saturation = pixels.max(2) - pixels.min(2)
    assert (saturation > 80).sum() > 500


def test_it_prints_on_paper_with_all_numbers(page: Path, tmp_path: Path) -> None:
    browse(page, 1200, "dark", tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", content)) <= 12
