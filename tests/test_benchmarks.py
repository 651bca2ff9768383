"""The benchmarks fit the package as it is: each one imports what it needs and describes its arguments."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

SCRIPTS = [path for path in sorted((REPOSITORY / "benchmarks").glob("*.py")) if path.stem != "common"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_benchmark_starts(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
