"""Images per second of training: ``lightning-vgg fit`` against a bare PyTorch loop and the Keras reference.

    python benchmarks/throughput.py --root IMAGES.tar.xz

Every arm is a process of its own that trains the lesson's network (32/64/128, dense 256, batch 128); the arms take
turns. An arm's figure in one turn is the median over its epochs; the table shows the median over the turns, and the
ratio to the bare loop turn by turn. ``fit`` is the whole command line: metrics, history, checkpoints, W&B offline.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RATIO_COLUMNS, publish, ratios_to_bare_loop

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
AUGMENTED = ["--data.augmentation.flip", "true", "--data.augmentation.shift", "4", "--data.augmentation.cutout", "8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--keras", action="store_true", help="measure the Keras reference, too")
    options = parser.parse_args()
    figures, rows = {}, []
    for precision in ("32-true", "bf16-mixed"):
        arms = {
            "bare loop": lambda p=precision: bare_loop(options, p),
            "fit": lambda p=precision: run_folder_speed("lightning-vgg", options, p, ["--model.semantics", "torch"]),
            "fit, augmented": lambda p=precision: run_folder_speed(
                "lightning-vgg", options, p, ["--model.semantics", "torch", *AUGMENTED]
            ),
        }
        if options.keras:
            arms["Keras reference"] = lambda p=precision: run_folder_speed("keras-reference", options, p, [])
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(options.turns):
            for name, arm in arms.items():
                speeds[name].append(arm())
                print(
                    f"{precision}  turn {turn + 1}/{options.turns}  {name}: {speeds[name][-1]:.0f} images/s", flush=True
                )
        of_precision, table = ratios_to_bare_loop(precision, speeds)
        figures |= of_precision
        rows += table
    settings = {"images": options.images, "epochs": options.epochs, "turns": options.turns}
    publish(
        "throughput", "Training throughput, ratio to the bare loop", RATIO_COLUMNS, rows, {**settings, "arms": figures}
    )


def bare_loop(options: argparse.Namespace, precision: str) -> float:
    command = [sys.executable, HERE / "bare_loop.py", "--root", options.root, "--precision", precision]
    command += ["--images", str(options.images), "--epochs", str(options.epochs)]
    return statistics.median(map(float, subprocess.check_output(command, text=True).split()))


def run_folder_speed(program: str, options: argparse.Namespace, precision: str, more: list[str]) -> float:
    """What run.json says: images over the seconds of an epoch's training steps, median over the epochs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            BIN / program, "fit", "-c", HERE.parent / "configs" / "vgg" / "base.yaml", "--data.source", "folder",
            "--data.root", options.root, "--data.train_images", str(options.images), "--data.validation_fraction", "0",
            "--model.network.units", "[256]", "--trainer.max_epochs", str(options.epochs),
            "--trainer.precision", precision,
            "--trainer.default_root_dir", folder, *more,
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "offline"})
        (record,) = Path(folder).glob("runs/*/*/run.json")
        return json.loads(record.read_text())["images_per_second"]


if __name__ == "__main__":
    main()
