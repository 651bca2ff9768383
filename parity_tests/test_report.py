"""The report of real runs of both frameworks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keras_reference import cli as keras_cli
from lightning_vgg import cli

EXPERIMENT = """
experiment: tiny
model:
  network: {conv_block: conv - batch norm - maxpool, filters: [4], units: []}
data: {source: digits, image_size: 8, train_images: 200}
trainer: {max_epochs: 2, logger: false, enable_progress_bar: false}
"""


@pytest.mark.slow
def test_real_runs_of_both_frameworks_make_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)

    monkeypatch.chdir(tmp_path)
    assert cli.run("fit -c tiny.yaml --name ours".split()) == 0
    assert keras_cli.run("fit -c tiny.yaml --name theirs".split()) == 0
    capsys.readouterr()
    assert cli.run("report runs/tiny/ours runs/tiny/theirs".split()) == 0
    report = tmp_path / "runs" / "tiny" / "report"
    *answers, last = capsys.readouterr().out.splitlines()
    assert last == f"report   {report / 'report.html'}"
    assert answers[0].startswith("Same accuracy? Undecided.") and len(answers) == 1
    findings = json.loads((report / "report.json").read_text())
    assert list(findings["arms"]) == ["lightning-keras", "keras"]
    assert findings["reference"] == "keras"
    assert findings["settings"] == {}
    (verdict,) = findings["verdicts"]
    assert verdict["verdict"] == "undecided"
    records = [json.loads((tmp_path / "runs" / "tiny" / name / "run.json").read_text()) for name in ("ours", "theirs")]
    assert verdict["difference"] == pytest.approx(records[0]["test_acc"] - records[1]["test_acc"])
    for speed in findings["speed"]["arms"].values():
        assert speed["images_per_second"]["ratio"]["mean"] > 0
        assert speed["seconds_to_target"]["mean"] > 0
    assert all(len(curves["val_acc"]) == 2 for curves in findings["curves"].values())
