"""The report of a single run shows its worst mistakes, and nothing that needs several runs."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import CLASS_NAMES, LEFT_HALF, make_mistaken_run, make_run

from lightning_vgg import cli
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.report import report_run
from lightning_vgg.runs.mistakes import Attention, read_mistakes

SECTIONS = ["verdict", "curves", "classes", "confusion", "mistakes", "calibration", "speed", "machines", "runs"]


def section(page: str) -> str:
    (found,) = re.findall(r'<section aria-labelledby="mistakes">.*?</section>', page, re.DOTALL)
    return str(found)


def test_the_report_lies_in_the_run_folder_and_holds_the_pictures(tmp_path: Path) -> None:
    run = make_mistaken_run(tmp_path / "run")
    report = report_run(run)
    assert report == run.path / "report.html"
    page, about = report.read_text(), read_mistakes(run)
    assert about is not None
    assert re.findall(r'<h2 id="(\w+)"', page) == SECTIONS
    assert re.findall(r'href="#(\w+)"', page.partition("</nav>")[0]) == SECTIONS
    assert "img-src data:" in page and "Comparison of" not in page and "seeds" not in page
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="Test image (\d+), ([^:]+): ([^"]+)"', page)
    assert len(pictures) == page.count("<img") == 2 * (12 + 4 * 3)
    for data, number, words, what in pictures:
        each = about["pictures"][int(number)]
        file = each["picture" if what == "the picture" else "grad_cam"]
        assert base64.b64decode(data) == (run.path / file).read_bytes()
        assert words.replace("&lt;ox&gt;", "<ox>") == f"{each['true']} taken for {each['predicted']}"
    shown = section(page)
    assert "20 of 200 test images were classified wrongly." in shown
    assert "<code>block2.conv1</code>" in shown
    for number, name in enumerate(CLASS_NAMES):
        heading = f"<h3>{name} taken for {CLASS_NAMES[(number + 1) % 4]}: 5 of 50</h3>"
        assert heading.replace("<ox>", "&lt;ox&gt;") in shown


def test_numbers_and_the_text_report_say_the_same(tmp_path: Path) -> None:
    run = make_mistaken_run(tmp_path / "run")
    report_run(run)
    found = json.loads((run.path / "report.json").read_text())["mistakes"]
    labels, logits = run.read_predictions()
    assert [each["image"] for each in found["surest"]] == [*(read_mistakes(run) or {})["pictures"]][:12]
    confidences = [each["confidence"] for each in found["surest"]]
    assert confidences == sorted(confidences, reverse=True)
    assert found["wrong"] == 20 == (logits.argmax(1) != labels).sum()
    assert "base64" not in json.dumps(found)
    text = (run.path / "report.md").read_text()
    assert "## The worst mistakes\n\n20 of 200 test images" in text
    for each in found["surest"]:
        assert (run.path / each["picture"]).is_file() and (run.path / each["grad_cam"]).is_file()
        row = (
            f"| {each['image']} | {each['true']} | {each['predicted']} | {each['confidence']:.0%} | [{each['picture']}]"
        )
        assert row.replace("% |", " % |") in text
    assert "- cat taken for dog: 5 of 50\n" in text


def test_lightning_vgg_report_of_the_run_shows_them_too(tmp_path: Path) -> None:
    run = make_mistaken_run(tmp_path / "run")
    assert cli.run(["report", str(run.path)]) == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())["mistakes"]
    assert (tmp_path / "report" / found["surest"][0]["picture"]).is_file()
    assert (tmp_path / "report" / "report.html").read_text().count("<img") == 48


def test_a_comparison_shows_none(tmp_path: Path) -> None:
    runs = [make_mistaken_run(tmp_path / "a"), make_run(tmp_path / "b", "keras")]
    assert cli.run(["report", *(str(run.path) for run in runs)]) == 0
    assert json.loads((tmp_path / "report" / "report.json").read_text())["mistakes"] is None
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<img" not in page and 'id="mistakes"' not in page and 'id="method"' in page
    assert "The worst mistakes" not in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "attention", "words"),
    [
        (0, LEFT_HALF, "None: every test image was classified correctly."),
        (3, "the network has no convolution", "Without Grad-CAM: the network has no convolution."),
        (3, None, "lightning-vgg test -c RUN/config.yaml --report true"),
    ],
)
def test_what_there_is_not_is_said(wrong: int, attention: Attention | str | None, words: str, tmp_path: Path) -> None:
    run = (
        make_run(tmp_path / "run", wrong=3)
        if attention is None
        else make_mistaken_run(tmp_path / "run", wrong, attention)
    )
    shown = section(report_run(run).read_text())
    assert words in shown
    assert shown.count("<img") == (3 + 3 if isinstance(attention, str) else 0)


def test_pictures_that_are_gone_or_of_other_predictions_are_refused(tmp_path: Path) -> None:
    run = make_mistaken_run(tmp_path / "run")
    report = report_run(run)
    before = report.read_text()
    (run.mistakes / "0.jpg").unlink()
    with pytest.raises(ExperimentError, match=r"mistakes/0\.jpg: No such file or directory; .*--report true makes the"):
        report_run(run)
    labels, logits = run.read_predictions()
    run.write_predictions(labels, np.roll(logits, 1, axis=1))
    with pytest.raises(ExperimentError, match=r"mistakes does not belong to the test_predictions\.npz beside it"):
        report_run(run)
    assert report.read_text() == before  # the old one stays
    shutil.rmtree(run.mistakes)
    report_run(run)
