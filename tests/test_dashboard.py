"""The W&B workspace and report as code; that their names are those that runs log is for test_compare to show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lightning_vgg import cli

CHARTS = {
    "train_loss", "val_loss", "train_acc", "val_acc", "test_acc", "test_loss", "startup_seconds", "images_per_second",
    "peak_memory_bytes",
}  # fmt: skip


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a dry run prints; with a server that nobody listens at, so asking one would fail."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    assert cli.run(["dashboard", "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_workspace_overlays_the_arms_of_a_comparison(made: dict[str, Any]) -> None:
    assert (made["workspace"]["entity"], made["workspace"]["project"]) == ("us", "elsewhere")
    section = made["workspace"]["spec"]["section"]
    (runs,) = section["runSets"]
    assert [(key["section"], key["name"]) for key in runs["grouping"]] == [("run", "group"), ("run", "jobType")]
    assert section["settings"]["xAxis"] == "trainer/global_step"
    sections = {each["name"]: each["panels"] for each in section["panelBankConfig"]["sections"]}
    assert list(sections) == ["Loss", "Accuracy", "Test", "Speed", "Verdicts", "Parity"]
    assert charts([panel for panels in sections.values() for panel in panels]) == CHARTS
    for panel in sections["Loss"] + sections["Accuracy"]:
        assert panel["viewType"] == "Run History Line Plot" and panel["config"]["xAxis"] == "trainer/global_step"
    for name in ("Verdicts", "Parity"):
        assert f'"val": "{name.lower()}"' in json.dumps(sections[name])


def test_the_report_has_the_same_charts_on_a_page(made: dict[str, Any]) -> None:
    blocks = made["report"]["spec"]["blocks"]
    project = made["report"]["project"]
    assert (project["entityName"], project["name"]) == ("us", "elsewhere")
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert headings == ["Loss", "Accuracy", "Test", "Speed", "Verdicts", "Parity"] and len(grids) == 6
    assert charts([panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]) == CHARTS
    for grid in grids:
        assert [key["name"] for key in grid["runSets"][0]["grouping"]] == ["group", "jobType"]


def charts(panels: list[dict[str, Any]]) -> set[str]:
    return {name for panel in panels for name in panel["config"].get("metrics", [])}


def test_without_a_key_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["dashboard"]) == 2
    assert "W&B has no API key here: run `wandb login`, or look at" in capsys.readouterr().err
