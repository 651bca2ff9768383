"""``lightning-vgg dashboard``: the W&B project's workspace and report, as code.

Both group the runs by comparison and arm, so that a chart overlays Lightning and Keras, each the mean over its seeds.
The W&B report shows the curves of each seed, too.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.runs.tracking import (
    PARITY_TABLE,
    SPEED,
    STEP,
    TWIN_DISTANCE,
    VERDICT_TABLE,
    has_api_key,
    horizon_curve,
)

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

TITLE = "Lightning and Keras"
CURVES = {
    "Loss": {"train_loss": "training loss (nats)", "val_loss": "validation loss (nats)"},
    "Accuracy": {"train_acc": "training accuracy", "val_acc": "validation accuracy"},
    "Over the classes": {"val_balanced_acc": "validation balanced accuracy", "val_macro_f1": "validation macro F1"},
}
BARS = {
    "Test": {
        "test_acc": "test accuracy",
        "test_loss": "test loss (nats)",
        "test_balanced_acc": "test balanced accuracy",
        "test_macro_f1": "test macro F1",
    },
    "Speed": dict(zip(SPEED, ("start-up (s)", "images per second", "peak memory (bytes)"), strict=True)),
}
"""Heading -> name under which both frameworks log a quantity -> title of its chart."""
HORIZON = {"weights": "distance of the weights", "predictions": "test images classified differently"}
PRECISIONS = ("float64", "float32", "bfloat16")
TABLES = {"Verdicts": VERDICT_TABLE, "Parity": PARITY_TABLE}
GROUPS = ("Group", "JobType")
"""Comparison, then arm."""
SEEDS = ("Group", "config.seed_everything", "JobType")
"""Comparison, then seed, then arm: every training on its own, a seed's beside each other."""
_WHOLE_ROW = 24
"""Columns of W&B's grid."""


def show(project: str) -> None:
    """Print as JSON what would be made; this needs no server."""
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
    seeds = wr.Runset(name="seeds", groupby=list(SEEDS))
    curves = [panel for panels in _curves().values() for panel in panels]
    blocks += [
        wr.H2("Seed by seed"),
        wr.P("Here a line is one training. Untick all but one seed to see its arms alone."),
        wr.PanelGrid(runsets=[seeds], panels=curves),
    ]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


_SPREAD = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": 100}


def _panels() -> dict[str, list[Any]]:
    """Heading -> its charts and tables, anew at each call: W&B numbers them."""
    import wandb_workspaces.reports.v2 as wr

    bars = {
        heading: [wr.BarPlot(title=title, metrics=[name], **_SPREAD) for name, title in charts.items()]
        for heading, charts in BARS.items()
    }
    twins = [wr.LinePlot(title="distance of the weights", x=STEP, y=[TWIN_DISTANCE], log_x=True, log_y=True)]
    horizon = [
        wr.LinePlot(
            title=f"{precision}: {title}",
            x=STEP,
            metric_regex=horizon_curve(quantity, precision, ".*"),
            log_x=True,
            log_y=quantity == "weights",  # of predictions none may differ
        )
        for quantity, title in HORIZON.items()
        for precision in PRECISIONS
    ]
    tables = {
        heading: [wr.WeavePanelSummaryTable(table_name=name, layout=wr.Layout(w=_WHOLE_ROW, h=10))]
        for heading, name in TABLES.items()
    }
    return {**_curves(), **bars, "Twins": twins, "Horizon": horizon, **tables}


def _curves() -> dict[str, list[Any]]:
    """Heading -> its charts of training and validation over the steps."""
    import wandb_workspaces.reports.v2 as wr

    return {
        heading: [wr.LinePlot(title=title, x=STEP, y=[name], **_SPREAD) for name, title in charts.items()]
        for heading, charts in CURVES.items()
    }
