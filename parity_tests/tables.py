"""What was measured, as tables for the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from parity_tests.ablation import Ablation
    from parity_tests.horizon import Horizon
    from parity_tests.ladder import Report, Rung
    from parity_tests.locate import Finding


def wide_console() -> Console:
    """As wide as the terminal; into a file or a pipe, as wide as the tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 130)


def ladder_table(rungs: list[Rung], title: str = "Parity of Lightning and Keras") -> Table:
    table = _table(title, ("limit", "verdict"))
    for rung in rungs:
        verdict = "[green]passed" if rung.passed else "[bold red]FAILED"
        table.add_row(*_cells(rung), f"{rung.limit:.1e}", verdict)
    return table


def reported_table(reports: list[Report]) -> Table:
    table = _table("Decided by rounding alone, so without a verdict", ())
    for report in reports:
        table.add_row(*_cells(report))
    return table


def _table(title: str, more: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for column in ("rung", "precision", "worst tensor", "measured", "torch to itself", "ratio", *more):
        table.add_column(column, justify="left" if column in ("rung", "precision", "worst tensor") else "right")
    return table


def _cells(report: Report) -> list[str]:
    control = "" if report.control is None else f"{report.control:.1e}"
    ratio = f"{report.measured / report.control:.2g}" if report.control else ""
    return [report.name, report.precision, report.worst, f"{report.measured:.1e}", control, ratio]


def horizon_table(found: list[Horizon]) -> Table:
    from rich.table import Table

    table = Table(
        title=f"How far trainings are from Lightning's after {found[0].steps[-1]} steps",
        caption="weights: max|difference| / max|reference| of the worst tensor",
    )
    for column in ("precision", "training", "weights, 1 step", "weights, end", "other predictions", "half of them by"):
        table.add_column(column, justify="left" if column in ("precision", "training") else "right")
    for each in found:
        half = "" if each.half is None else f"step {each.half}"
        distances = (f"{each.weights[0]:.1e}", f"{each.weights[-1]:.1e}")
        table.add_row(each.precision, each.arm, *distances, f"{each.predictions[-1]:.1%}", half)
    return table


def located_table(found: list[Finding]) -> Table:
    from rich.table import Table

    table = Table(
        title="Each layer and stage by itself, float64", caption="difference / largest value, on torch's input"
    )
    for column in ("where", "quantity", "measured", "limit", ""):
        table.add_column(column, justify="right" if column in ("measured", "limit") else "left")
    for finding in found:
        words = f"[bold red]{finding.relation}" if finding.is_culprit else ""
        table.add_row(finding.where, finding.quantity, f"{finding.measured:.1e}", f"{finding.limit:.1e}", words)
    return table


def ablation_table(found: list[Ablation]) -> Table:
    from rich.table import Table

    table = Table(
        title="What each default does to the parameters",
        caption="max|difference| / max|reference| of the worst tensor, float64; other default against ours",
    )
    for column in ("switch", "1 step", "10 steps", "50 steps", "loss of step 50"):
        table.add_column(column, justify="left" if column == "switch" else "right")
    for ablation in found:
        table.add_row(
            ablation.switch, *(f"{distance:.1e}" for distance in ablation.distances), f"{ablation.loss_change:+.4f}"
        )
    return table
