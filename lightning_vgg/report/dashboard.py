"""``lightning-vgg dashboard``: the W&B project's workspace and report, as code.

Both group the runs by comparison and arm, so that a chart overlays Lightning and Keras, each the mean over its seeds.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.runs.tracking import PARITY_TABLE, PROJECT, SPEED, STEP, VERDICT_TABLE, has_api_key

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

TITLE = "Lightning and Keras"
CURVES = {
    "Loss": {"train_loss": "training loss (nats)", "val_loss": "validation loss (nats)"},
    "Accuracy": {"train_acc": "training accuracy", "val_acc": "validation accuracy"},
}
BARS = {
    "Test": {"test_acc": "test accuracy", "test_loss": "test loss (nats)"},
    "Speed": dict(zip(SPEED, ("start-up (s)", "images per second", "peak memory (bytes)"), strict=True)),
}
"""Heading -> name under which both frameworks log a quantity -> title of its chart."""
TABLES = {"Verdicts": VERDICT_TABLE, "Parity": PARITY_TABLE}
GROUPS = ("Group", "JobType")
"""Comparison, then arm."""
_WHOLE_ROW = 24
"""Columns of W&B's grid."""


def main(command: str, args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        f"lightning-vgg {command}",
        description="Build the W&B project's workspace and report: curves of both frameworks overlaid, test results, "
        "speed, verdicts and the parity table. WANDB_PROJECT and WANDB_ENTITY have their usual meaning.",
    )
    parser.add_argument("--dry-run", action="store_true", help="print as JSON what would be made; needs no server")
    arguments = parser.parse_args(args)
    require("wandb_workspaces", "dashboard")
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    if not arguments.dry_run:
        save(project)
        return
    entity = os.environ.get("WANDB_ENTITY", "")
    made = {"workspace": build_workspace(entity, project), "report": build_report(entity, project)}
    print(json.dumps(made, indent=2, default=lambda made: made._to_model().model_dump(mode="json", by_alias=True)))


def save(project: str) -> None:
    """Make the workspace and the report on the server, and print their addresses; each call makes new ones.

    Raises:
        ExperimentError: there is no API key, or the server refuses.
    """
    import wandb

    if not has_api_key():
        raise ExperimentError("W&B has no API key here: run `wandb login`, or look at what would be made by --dry-run")
    try:
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
        workspace, report = build_workspace(entity, project).save(), build_report(entity, project)
        report.save()
    except wandb.Error as error:
        raise ExperimentError(f"W&B: {error}") from None
    print(f"workspace  {workspace.url}\nreport     {report.url}")


def build_workspace(entity: str, project: str) -> Workspace:
    """A section for each heading."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name=heading, panels=panels, is_open=True) for heading, panels in _panels().items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric(name) for name in GROUPS]),
    )


def build_report(entity: str, project: str) -> Report:
    """The same charts below each other, as a page to read."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [
        wr.P("A line or a bar is one arm of one comparison: the mean over its seeds, and their spread.")
    ]
    for heading, panels in _panels().items():
        runs = wr.Runset(name="arms", groupby=list(GROUPS))  # of the report's own project
        blocks += [wr.H2(heading), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def _panels() -> dict[str, list[Any]]:
    """Heading -> its charts and tables, anew at each call: W&B numbers them."""
    import wandb_workspaces.reports.v2 as wr

    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": 100}
    tables = {
        heading: [wr.WeavePanelSummaryTable(table_name=name, layout=wr.Layout(w=_WHOLE_ROW, h=10))]
        for heading, name in TABLES.items()
    }
    curves = {
        heading: [wr.LinePlot(title=title, x=STEP, y=[name], **spread) for name, title in charts.items()]
        for heading, charts in CURVES.items()
    }
    bars = {
        heading: [wr.BarPlot(title=title, metrics=[name], **spread) for name, title in charts.items()]
        for heading, charts in BARS.items()
    }
    return {**curves, **bars, **tables}
