"""The report of a comparison: report.html, report.json and report.md, from run folders alone."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_vgg.report.comparison import Comparison, gather_runs
from lightning_vgg.report.inputs import MARGIN
from lightning_vgg.runs.folder import RunFolder, atomic_write


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write the three files into the folder, and return that of report.html; older ones are replaced.

    Raises:
        ExperimentError: runs were tested on different images, or a file is damaged.
    """
    from lightning_vgg.report.findings import find
    from lightning_vgg.report.render import render

    findings = find(comparison, folder)
    texts = {
        "report.json": json.dumps(findings, indent=1, allow_nan=False) + "\n",
        "report.md": render("report.md", findings, folder),
        "report.html": render("report.html", findings, folder),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return folder / "report.html"


def report_run(run: RunFolder) -> Path:
    """Write the report of one tested run into its own folder, and return the path of report.html.

    Raises:
        ExperimentError: a file is damaged.
    """
    return write_report(gather_runs([run], MARGIN), run.path)


def read_answers(folder: Path) -> list[str]:
    """The answers of a report, as lines to print; where there are none, its headline."""
    from lightning_vgg.report.answers import answers, headline

    findings = json.loads((folder / "report.json").read_text())
    rows = answers(findings)
    return [f"{row['question']} {row['word']}. {' '.join(row['sentences'])}" for row in rows] or [headline(findings)]
