"""The notebooks run from top to bottom, their text is their outputs' text, and neither names the machine it ran on."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
SHORTENED = {
    "1_vgg_from_blocks": {"EPOCHS": 2, "TRIALS": 2},
    "2_transfer_learning": {"PRETRAINING_EPOCHS": 2, "EPOCHS": 3},
    "3_port_your_keras_model": {"EPOCHS": 2},
}
RUNS = {"1_vgg_from_blocks": 10, "2_transfer_learning": 10, "3_port_your_keras_model": 1}
"""That a notebook leaves behind, at least."""


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", EXAMPLES / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_notebook_is_tested(build: ModuleType) -> None:
    assert set(build.NOTEBOOKS) == SHORTENED.keys() == {path.stem for path in EXAMPLES.glob("*.ipynb")}


@pytest.mark.parametrize("name", SHORTENED)
def test_text_and_outputs_belong_together(name: str, build: ModuleType) -> None:
    """After a change of the text: ``make notebooks``."""
    text, notebook = build.read_text(name), nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in text.cells
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]


@pytest.mark.parametrize("name", SHORTENED)
def test_outputs_name_no_place_of_a_machine(name: str) -> None:
    text = (EXAMPLES / f"{name}.ipynb").read_text()
    assert re.findall(r"/(?:home|root|work|tmp|usr|Users)/[^\"\\ ]*", text) == []
    assert len(text) < 1_500_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("1_vgg_from_blocks", marks=pytest.mark.thorough),
        pytest.param("2_transfer_learning", marks=pytest.mark.thorough),
        "3_port_your_keras_model",
    ],
)
def test_notebook_runs_from_top_to_bottom(
    name: str, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = build.execute(name, tmp_path, **SHORTENED[name])
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    assert len(pictures) == len([each for each in outputs(committed) if "image/png" in each.get("data", {})]) >= 3
    assert len(list(tmp_path.glob("runs/*/*/run.json"))) >= RUNS[name]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
