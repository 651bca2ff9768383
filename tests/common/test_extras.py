"""A command whose package is not installed says in one line which extra brings it."""

from __future__ import annotations

import importlib.util
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from conftest import CONFIGS, REPOSITORY

from lightning_vgg.cli import run
from lightning_vgg.common.extras import require


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that are not found for the time of a test."""
    names: set[str] = set()
    find = importlib.util.find_spec

    def find_others(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    return names


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["dashboard", "--dry-run"], "wandb_workspaces", "dashboard"),
        (["compare", "--scheduler", "tcp://host:1"], "distributed", "cluster"),
        (["tune", "-c", str(CONFIGS / "tune" / "vgg.yaml")], "optuna", "tune"),
        (["tune", "-c", str(CONFIGS / "tune" / "vgg.yaml")], "plotly", "tune"),
        (["tune", "-c", str(CONFIGS / "tune" / "vgg.yaml"), "--framework", "keras"], "keras", "keras"),
        (["parity", "-c", str(CONFIGS / "quickstart.yaml")], "tensorflow", "keras"),
    ],
)
def test_the_command_names_the_extra_and_writes_nothing(
    arguments: list[str],
    package: str,
    extra: str,
    missing: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing.add(package)
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    line = f"lightning-vgg: error: {package} is not installed; pip install 'lightning-vgg[{extra}]'\n"
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []


def test_what_is_installed_is_not_refused(missing: set[str]) -> None:
    missing.add("optuna")
    require("numpy", "tune")


def test_every_extra_exists_and_setup_installs_it() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"dashboard", "tune", "keras"} <= set(extras)
    assert "[" + ",".join(extras) + "]" in (REPOSITORY / "Makefile").read_text()
