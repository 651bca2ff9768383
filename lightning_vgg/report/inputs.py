"""What is to be reported: a comparison, or run folders that make one."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.report.comparison import Comparison, gather_runs, read_comparison
from lightning_vgg.runs.folder import RunFolder

COMPARISON = "comparison.json"
MARGIN = 0.01


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
        raise ExperimentError(f"{comparisons[0]} is a comparison: name only it, or only its run folders")
    if margin is not None:
        raise ExperimentError(
            f"--margin: that in {paths[0] / COMPARISON} was fixed before its runs; name its run folders to try another"
        )
    return read_comparison(paths[0] / COMPARISON), paths[0]
