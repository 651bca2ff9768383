"""The report of real runs of both frameworks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT = """
experiment: tiny
model:
  network: {conv_block: conv - batch norm - maxpool, filters: [4], units: []}
data: {source: digits, image_size: 8, train_images: 200}
trainer: {max_epochs: 2, logger: false, enable_progress_bar: false}
"""


@pytest.mark.slow
def test_real_runs_of_both_frameworks_make_a_report(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)

    def run(program: str, *arguments: str) -> str:
        command = [str(Path(sys.executable).parent / program), *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("lightning-vgg", "fit", "-c", "tiny.yaml", "--name", "ours")
    run("keras-reference", "fit", "-c", "tiny.yaml", "--name", "theirs")
    output = run("lightning-vgg", "report", "runs/tiny/ours", "runs/tiny/theirs")
    report = tmp_path / "runs" / "tiny" / "report"
    assert output == f"report   {report / 'report.html'}\n"
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
