"""The W&B workspace and report as code; that their names are those that runs log is for test_compare to show."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import wandb

from lightning_vgg import cli
from lightning_vgg.runs.tracking import horizon_curve
from parity_tests.horizon import PRECISIONS

CHARTS = {
    "train_loss",
    "val_loss",
    "train_acc",
    "val_acc",
    "val_balanced_acc",
    "val_macro_f1",
    "test_acc",
    "test_loss",
    "test_balanced_acc",
    "test_macro_f1",
    "startup_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "twin/distance",
}
HEADINGS = ["Loss", "Accuracy", "Over the classes", "Test", "Speed", "Twins", "Horizon", "Verdicts", "Parity"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a dry run prints; with a server that nobody listens at, so asking one would fail."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    assert cli.run(["dashboard", "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def logged_out() -> Iterator[None]:
    """W&B keeps a key that it has seen for the whole process."""
    yield
    wandb.teardown()


def test_the_workspace_overlays_the_arms_of_a_comparison(made: dict[str, Any]) -> None:
    assert (made["workspace"]["entity"], made["workspace"]["project"]) == ("us", "elsewhere")
    section = made["workspace"]["spec"]["section"]
    (runs,) = section["runSets"]
    assert [(key["section"], key["name"]) for key in runs["grouping"]] == [("run", "group"), ("run", "jobType")]
    assert section["settings"]["xAxis"] == "trainer/global_step"
    sections = {each["name"]: each["panels"] for each in section["panelBankConfig"]["sections"]}
    assert list(sections) == HEADINGS
    assert charts([panel for panels in sections.values() for panel in panels]) == CHARTS
    for panel in sections["Loss"] + sections["Accuracy"]:
        assert panel["viewType"] == "Run History Line Plot" and panel["config"]["xAxis"] == "trainer/global_step"
    shown = [panel["config"]["metricRegex"] for panel in sections["Horizon"]]
    logged = [
        horizon_curve(name, precision, "Keras") for name in ("weights", "predictions") for precision in PRECISIONS
    ]
    assert [re.fullmatch(*pair) is not None for pair in zip(shown, logged, strict=True)] == [True] * 6
    for name in ("Verdicts", "Parity"):
        assert f'"val": "{name.lower()}"' in json.dumps(sections[name])


def test_the_report_has_the_same_charts_on_a_page(made: dict[str, Any]) -> None:
    blocks = made["report"]["spec"]["blocks"]
    project = made["report"]["project"]
    assert (project["entityName"], project["name"]) == ("us", "elsewhere")
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert headings == [*HEADINGS, "Seed by seed"] and len(grids) == len(headings)
    assert charts([panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]) == CHARTS
    *by_arm, by_seed = ([key["name"] for key in grid["runSets"][0]["grouping"]] for grid in grids)
    assert by_arm == [["group", "jobType"]] * len(HEADINGS)
    assert by_seed == ["group", "seed_everything.value", "jobType"]  # a line is one training
    over_classes = {"val_balanced_acc", "val_macro_f1"}
    curves = {"train_loss", "val_loss", "train_acc", "val_acc"} | over_classes
    assert charts(grids[-1]["panelBankSectionConfig"]["panels"]) == curves


def charts(panels: list[dict[str, Any]]) -> set[str]:
    return {name for panel in panels for name in panel["config"].get("metrics", [])}


class Server(http.server.BaseHTTPRequestHandler):
    """As much of W&B as it takes."""

    viewer: ClassVar[dict[str, Any] | None]
    saved: ClassVar[list[dict[str, Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            request = json.loads(body)
            if "upsertView" in request["query"]:
                self.saved.append(request["variables"])
                answer = {"upsertView": {"view": {"id": "aWQ=", "name": "nw-made-v"}, "inserted": True}}
            elif "models(" in request["query"]:
                page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
                project = {"__typename": "Project", "id": "aWQ=", "name": "elsewhere", "entityName": "us"}
                project |= {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
                answer = {"models": {"pageInfo": page, "edges": [{"node": project}]}}
            elif "viewer" in request["query"]:
                answer = {"viewer": self.viewer}
        text = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    Server.saved = []
    Server.viewer = {"id": "1", "entity": "us", "username": "u", "email": "", "flags": "{}", "teams": {"edges": []}}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_address[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
        yield Server
        listening.shutdown()


def test_both_are_saved_and_their_addresses_printed(server: type[Server], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["dashboard"]) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert "/us/elsewhere?nw=made" in lines["workspace"] and "/us/elsewhere/reports/" in lines["report"]
    workspace, report = server.saved
    assert workspace["entityName"] == report["entityName"] == "us"
    sections = json.loads(workspace["spec"])["section"]["panelBankConfig"]["sections"]
    assert charts([panel for section in sections for panel in section["panels"]]) == CHARTS
    assert "training loss" in report["spec"]


def test_a_key_that_the_server_refuses_is_said(server: type[Server], capsys: pytest.CaptureFixture[str]) -> None:
    server.viewer = None
    assert cli.run(["dashboard"]) == 2
    assert "lightning-vgg: error: W&B: Failed to verify credentials" in capsys.readouterr().err


def test_without_a_key_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["dashboard"]) == 2
    assert "W&B has no API key here: run `wandb login`, or look at" in capsys.readouterr().err
