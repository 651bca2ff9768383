"""The benchmarks fit the package as it is: each one imports what it needs and describes its arguments. The one of GPUs
runs without one, too; and pages say what was measured.
"""

from __future__ import annotations

import importlib
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from made_images import noise

SCRIPTS = [path for path in sorted((REPOSITORY / "benchmarks").glob("*.py")) if path.stem != "common"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_benchmark_starts(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(script, "--help", monkeypatch=monkeypatch) == 0
    assert "usage:" in capsys.readouterr().out


def run(script: Path, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """A script in this process; its status."""
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def test_a_cell_that_fails_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    fill_table = importlib.import_module("common").fill_table
    output, cells = tmp_path / "cells.json", {"bad": lambda: 1 / 0, "good": lambda: {"value": 2}}

    def fill(seconds: float) -> None:
        fill_table(output, "Two", ["name", "value"], {}, cells, lambda figure: [str(figure["value"])], seconds)

    fill(-1.0)
    assert "left for another time: bad" in capsys.readouterr().out and not output.exists()
    with pytest.raises(SystemExit, match="failed: bad"):
        fill(60.0)
    assert json.loads(output.read_text())["cells"] == {"good": {"value": 2}}


# --- the benchmark of a GPU -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise(tmp_path_factory.mktemp("photos") / "set", size=32, train=600, test=8)


def quick_cells(photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *only: str) -> dict[str, Any]:
    output = folder / "gpu.json"
    script = REPOSITORY / "benchmarks" / "gpu.py"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    status = run(script, "--root", photos, "--quick", "--output", output, "--only", *only, monkeypatch=monkeypatch)
    assert status == 0
    return json.loads(output.read_text())["cells"]


def test_masks_and_augmentation_are_numpys_bit_for_bit(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = quick_cells(photos, tmp_path, monkeypatch, "masks", "augmentation")
    assert len(cells) == 2
    for cell in cells.values():
        assert cell["compared"] > 1e6 and cell["different"] == 0


@pytest.mark.thorough
def test_fit_and_the_bare_loop_are_measured(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = ["lesson, bf16, bare loop", "lesson, bf16, fit without channels_last"]
    cells = quick_cells(photos, tmp_path, monkeypatch, *arms)
    assert list(cells) == arms
    assert all(cell["images_per_second"] > 0 and cell["peak_memory_bytes"] > 1e8 for cell in cells.values())


@pytest.mark.thorough
def test_all_of_it_runs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = quick_cells(photos, tmp_path, monkeypatch, "")
    (ladder,) = (cell for name, cell in cells.items() if name.startswith("parity ladder"))
    assert ladder["passed"] == len(ladder["rungs"]) > 3
    table = importlib.import_module("table")
    assert len([*table.gpu({"cells": cells})]) == len(cells) > 15


# --- what the pages say -----------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("table")


def test_pages_say_what_the_benchmarks_measured(table: Any) -> None:
    assert table.differences(REPOSITORY) == []


def test_stale_figures_are_found(table: Any, tmp_path: Path) -> None:
    for name in ("README.md", "docs/figures.md", "docs/fast.md", "benchmarks/results.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text().replace("77.4 %", "77.5 %"))
    (stale,) = table.differences(tmp_path)
    assert stale.startswith("README.md does not say, as accuracy.json does: `fast.yaml` 89.7 % in 14 minutes")
    measured = tmp_path / "benchmarks" / "results" / "features.json"
    measured.write_text(measured.read_text().replace('"median": 706', '"median": 806'))
    (tmp_path / "benchmarks" / "results" / "new.json").write_text("{}")
    found = table.differences(tmp_path)
    assert [line.split()[0] for line in found] == [
        "benchmarks/results.md",
        "benchmarks/table.py",
        "docs/figures.md",
        "README.md",
    ]
    (tmp_path / "benchmarks" / "results.md").write_text(table.table(tmp_path))
    assert len(table.differences(tmp_path)) == 3
