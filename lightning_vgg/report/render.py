"""Findings -> report.html and report.md, by the templates, which call the functions of ``words``, ``answers`` and
``charts``."""

from __future__ import annotations

import inspect
import itertools
import os
from pathlib import Path

import jinja2

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.report import answers, charts, words
from lightning_vgg.report.mistakes import data_uri

SECTIONS = {
    "verdict": "Verdict",
    "twin": "The same training?",
    "horizon": "How long do they stay together?",
    "curves": "Curves",
    "parity": "Parity ladder",
    "ablation": "Defaults, one at a time",
    "classes": "Accuracy by class",
    "confusion": "Confusion matrices",
    "mistakes": "The worst mistakes",
    "calibration": "Calibration",
    "agreement": "Agreement of predictions",
    "speed": "Speed and memory",
    "settings": "Settings that differ",
    "machines": "Versions and devices",
    "runs": "Runs",
    "method": "Method",
}
"""Anchor -> title, in the order of the report."""
OF_COMPARISONS = ("twin", "horizon", "parity", "ablation", "agreement", "settings", "method")
"""Sections that a report of a single run leaves out."""
OF_ONE_RUN = ("mistakes",)
"""Sections that it alone has."""
CURVE_TITLES = {
    "train_loss": "Training loss (nats)",
    "val_loss": "Validation loss (nats)",
    "train_acc": "Training accuracy (%)",
    "val_acc": "Validation accuracy (%)",
    "val_balanced_acc": "Validation balanced accuracy (%)",
    "val_macro_f1": "Validation macro F1 (%)",
}
SPEED_FORMS = {
    "images_per_second": words.rate,
    "seconds_to_target": words.seconds,
    "startup_seconds": words.seconds,
    "peak_memory_bytes": words.memory,
}
MOST_CLASSES = 20
"""Most classes that a chart shows."""


def render(template: str, findings: PlainDict, folder: Path) -> str:
    """The text of ``report.html`` or ``report.md``, which will lie in the folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_vgg.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    for module in (words, answers, charts):
        environment.globals |= inspect.getmembers(module, inspect.isfunction)
    # The folder need not exist yet, so that report/../run would lead nowhere.
    environment.filters["embedded"] = lambda path: data_uri(Path(os.path.normpath(folder / path)))
    return environment.get_template(f"{template}.j2").render(_view(findings))


def shown_sections(findings: PlainDict) -> dict[str, str]:
    """Those of SECTIONS that this report has."""
    if findings["one_run"]:
        shown = {anchor: title for anchor, title in SECTIONS.items() if anchor not in OF_COMPARISONS}
        return {**shown, "verdict": "Result", "confusion": "Confusion matrix"}
    return {anchor: title for anchor, title in SECTIONS.items() if anchor not in OF_ONE_RUN}


def _view(findings: PlainDict) -> PlainDict:
    """The findings as ``f``, and what the templates would otherwise have to compute."""
    arms, reference, sections = list(findings["arms"]), findings["reference"], shown_sections(findings)
    others = itertools.count(1)
    number = {name: 0 if name == reference else next(others) for name in arms}
    agreement = {tuple(each["arms"]): each for each in findings["agreement"]}
    drawn = {column for columns in findings["curves"].values() for column in columns}
    curve_titles = {column: title for column, title in CURVE_TITLES.items() if column in drawn}
    return {
        "f": findings,
        "arms": arms,
        "number": number,
        "seeds": sorted({seed for arm in findings["arms"].values() for seed in arm["runs"]}),
        "run_count": sum(len(arm["runs"]) for arm in findings["arms"].values()),
        "sections": list(sections.items()),
        "titles": sections,
        "reach": _reach(findings),
        "curve_titles": curve_titles,
        "curves": {
            title: {name: columns[column] for name, columns in findings["curves"].items() if column in columns}
            for column, title in curve_titles.items()
        },
        "idle_defaults": [
            row["switch"].replace("_", " ") for row in findings["ablation"] or () if not row["distances"][-1]
        ],
        "wrong_defaults": list(
            dict.fromkeys(
                each["arm"].replace("_", " ")
                for each in findings["horizon"] or ()
                if each["arm"] not in charts.HORIZON_PAINTS
            )
        ),
        "shown_classes": _shown_classes(findings),
        "most_classes": MOST_CLASSES,
        "agreement": agreement | {(other, one): each for (one, other), each in agreement.items()},
        "speed_forms": SPEED_FORMS,
        "machine_rows": _machine_rows(findings["machines"]),
    }


def _machine_rows(machines: dict[str, PlainDict]) -> dict[str, list[str]]:
    """Property -> its value in each arm; the packages' versions follow the framework."""
    packages = dict.fromkeys(package for machine in machines.values() for package in machine["versions"])
    rows = {"framework": [machine["framework"] for machine in machines.values()]}
    rows |= {name: [machine["versions"].get(name, "–") for machine in machines.values()] for name in packages}
    others = [key for key in next(iter(machines.values())) if key not in ("framework", "versions")]
    return rows | {key: [machine[key] for machine in machines.values()] for key in others}


def _reach(findings: PlainDict) -> float:
    """Half the width of every chart of a difference: room for all intervals, all seeds, and the margins."""
    verdicts = findings["verdicts"]
    edges = [abs(verdict[key] or 0) for verdict in verdicts for key in ("low", "high", "difference")]
    seeds = [abs(value) for values in findings["paired_differences"].values() for value in values.values()]
    return 1.06 * max([*edges, *seeds, 1.5 * findings["margin"]])


def _shown_classes(findings: PlainDict) -> list[int]:
    """Indices of the classes to show: all, or those in which the arms' means differ most."""
    rows = range(len(findings["class_names"]))

    def apart(row: int) -> float:
        means = [values[row]["mean"] for values in findings["per_class"].values() if values[row]]
        return max(means, default=0.0) - min(means, default=0.0)

    return sorted(sorted(rows, key=apart, reverse=True)[:MOST_CLASSES])
