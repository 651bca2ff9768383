"""Time to accuracy: the fast configuration against the lesson's, in Lightning and in Keras, over seeds.

    python benchmarks/accuracy.py --root IMAGES.tar.xz

Each run is the whole command with a process of its own, trained on all images as its YAML says and tested once; seconds
are those of the epochs (training and validation), start-up beside them. On an otherwise idle machine, whose speed the
bare loop in bf16 (`bare_loop.py`) tells just before each run.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT, bare_loop_speed, publish

BIN = Path(sys.executable).parent
ARMS = {
    "fast": ("lightning-vgg", "fast.yaml"),
    "lesson": ("lightning-vgg", "base.yaml"),
    "lesson, Keras": ("keras-reference", "base.yaml"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--folder", default=".", help="runs/ goes here; what is finished there is not trained again")
    options = parser.parse_args()
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    rows = []
    for seed in options.seeds:
        for arm in options.arms:
            found = train(arm, seed, options)
            figures.setdefault(arm, []).append({"seed": seed, **found})
            print(f"{arm}, seed {seed}: {found['test_acc']:.2%} after {found['seconds']:.0f} s", flush=True)
    for arm, runs in figures.items():
        augmented = [run["augmented_test_acc"] for run in runs if run["augmented_test_acc"] is not None]
        rows.append(
            [
                arm,
                str(len(runs)),
                f"{statistics.fmean(run['test_acc'] for run in runs):.2%}",
                f"{statistics.fmean(augmented):.2%}" if augmented else "",
                f"{statistics.fmean(run['seconds'] for run in runs):.0f}",
                f"{statistics.fmean(run['images_per_second'] for run in runs):.0f}",
                f"{statistics.fmean(run['bare_loop_images_per_second'] for run in runs):.0f}",
            ]
        )
    columns = ["configuration", "seeds", "test accuracy", "augmented test", "seconds", "images/s", "bare loop's"]
    publish("accuracy", "Time to accuracy, means over the seeds", columns, rows, {"arms": figures})


def train(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    program, config = ARMS[arm]
    name = f"{arm.replace(', ', '_').lower()}_seed{seed}"
    run = Path(options.folder) / "runs" / "time_to_accuracy" / name
    yardstick = Path(options.folder) / f"{name}.json"
    if not (run / "test_predictions.npz").exists():
        yardstick.write_text(json.dumps(bare_loop_speed(options.root, "bf16-mixed")))
        command = [
            BIN / program,
            "fit",
            "-c",
            ROOT / "configs" / "vgg" / config,
            "--data.source",
            "folder",
            "--data.root",
            options.root,
            "--experiment",
            "time_to_accuracy",
            "--name",
            name,
            "--seed_everything",
            str(seed),
            "--trainer.default_root_dir",
            options.folder,
            "--trainer.logger",
            "false",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record = json.loads((run / "run.json").read_text())
    with (run / "history.csv").open() as file:
        seconds = sum(float(row["seconds"]) for row in csv.DictReader(file))
    return {
        "test_acc": record["test_acc"],
        "augmented_test_acc": record.get("augmented_test_acc"),
        "seconds": seconds,
        "startup_seconds": record["startup_seconds"],
        "images_per_second": record["images_per_second"],
        "bare_loop_images_per_second": json.loads(yardstick.read_text()),
    }


if __name__ == "__main__":
    main()
