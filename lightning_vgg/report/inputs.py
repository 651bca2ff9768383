"""``lightning-vgg report RUN...``: the report of existing run folders."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.report.comparison import Comparison, gather_runs, read_comparison
from lightning_vgg.runs.folder import RunFolder

COMPARISON = "comparison.json"
MARGIN = 0.01


def main(command: str, args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        f"lightning-vgg {command}",
        description="Write report.html, report.json and report.md: of a comparison into its folder, "
        "of single runs into the folder report/ beside them. Older ones are replaced.",
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, such as runs/vgg/*; or the one folder of a comparison, runs/vgg/compare-NAME",
    )
    parser.add_argument(
        "--margin",
        type=float,
        help=f"difference of test accuracy up to which arms count as equivalent, a fraction ({MARGIN}); a comparison "
        "has its own",
    )
    arguments = parser.parse_args(args)
    comparison, folder = find_comparison(arguments.runs, arguments.margin)
    from lightning_vgg.report import write_report

    print(f"report   {write_report(comparison, folder)}")


def find_comparison(paths: list[Path], margin: float | None) -> tuple[Comparison, Path]:
    """The comparison that the paths name, and the folder of its report.

    Raises:
        ExperimentError: a path is neither a run folder nor a comparison, a comparison stands among other paths, or its
            margin would change.
    """
    comparisons = [path for path in paths if (path / COMPARISON).is_file()]
    if not comparisons:
        folder = Path(os.path.commonpath([path.resolve().parent for path in paths])) / "report"
        # A pattern such as runs/vgg/* names an earlier report, too.
        runs = [RunFolder.open(path) for path in paths if path.resolve() != folder]
        return gather_runs(runs, MARGIN if margin is None else margin), folder
    if len(paths) > 1:
        raise ExperimentError(f"{comparisons[0]} is a comparison: name it alone, or the run folders in it")
    if margin is not None:
        raise ExperimentError(
            f"--margin: that in {paths[0] / COMPARISON} was fixed before its runs; name its run folders to try another"
        )
    return read_comparison(paths[0] / COMPARISON), paths[0]
