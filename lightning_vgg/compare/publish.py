"""The report of a comparison in W&B.

Its files are an artifact, its answers lines of the summary, its verdicts and the parity ladder tables; how far the
twins and the trainings of the horizon lie apart are curves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_vgg.report.answers import answers
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.tracking import PARITY_TABLE, STEP, TWIN_DISTANCE, VERDICT_TABLE, horizon_curve, wandb_arguments

REPORT_FILES = ("report.html", "report.json", "report.md", "comparison.json", "comparison.yaml")


def log_report(folder: Path, group: str) -> None:
    """Log a comparison's report as a W&B run of its own, of the same group as the trainings.

    Args:
        folder: of the comparison, with the report in it.
        group: in W&B.
    """
    import wandb

    # What an artifact holds is copied until it is uploaded: by default far from here, where `wandb sync` may miss it.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.resolve() / "wandb"))
    config = yaml.safe_load((folder / "comparison.yaml").read_text())
    with wandb.init(**wandb_arguments(RunFolder(folder), group, "report", config)) as run:
        artifact = wandb.Artifact(f"report-{folder.name}", type="report")
        for name in REPORT_FILES:
            artifact.add_file(str(folder / name))
        run.log_artifact(artifact)
        report = json.loads((folder / "report.json").read_text())
        for answer in answers(report):
            run.summary[answer["question"].rstrip("?")] = f"{answer['word']}. {' '.join(answer['sentences'])}"
        run.summary[VERDICT_TABLE] = _table(report["verdicts"])
        for point in _curves(report):
            run.log(point)
        if (folder / "parity.json").exists():
            run.summary[PARITY_TABLE] = _table(json.loads((folder / "parity.json").read_text())["rungs"])


def _curves(report: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """Points of the twin's and the horizon's curves, with the step of each."""
    for step, distance in report["twin"]["distances"] if report["twin"] else ():
        yield {STEP: step, TWIN_DISTANCE: distance}
    for horizon in report["horizon"] or ():
        for number, step in enumerate(horizon["steps"]):
            yield {STEP: step} | {
                horizon_curve(quantity, horizon["precision"], horizon["arm"]): horizon[quantity][number]
                for quantity in ("weights", "predictions")
            }


def _table(rows: Sequence[Mapping[str, object]]) -> Any:
    """Of those columns that hold single values in every row."""
    import wandb

    columns = [name for name in rows[0] if not any(isinstance(row[name], dict) for row in rows)] if rows else []
    return wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])
