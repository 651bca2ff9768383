"""``lightning-vgg report RUN...``: the report of existing run folders."""

from __future__ import annotations

from pathlib import Path

from lightning_vgg.api import report_runs
from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.report import read_answers
from lightning_vgg.report.inputs import MARGIN


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(
        f"lightning-vgg {command}",
        "Write report.html, report.json and report.md: of a comparison into its folder, "
        "of single runs into the folder report/ beside them. Older ones are replaced.",
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, such as runs/vgg/NAME1 runs/vgg/NAME2; or one comparison's, runs/vgg/compare-NAME",
    )
    margin = f"difference of test accuracy up to which arms count as equivalent, a fraction ({MARGIN})"
    parser.add_argument("--margin", type=float, help=f"{margin}; a comparison has its own")
    arguments = parser.read(args)
    report = report_runs(*arguments.runs, margin=arguments.margin)
    print(*read_answers(report.parent), f"report   {report}", sep="\n")
