"""Seconds until each command has answered, and which heavy packages it has loaded by then.

    python benchmarks/startup.py

``--help`` of every command, checking a configuration, and the commands that train up to the end of their first step
(``startup_seconds`` of run.json: from the start of the process). The commands take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, publish, spread

BIN = Path(sys.executable).parent
HEAVY = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "keras",
    "tensorflow",
    "wandb",
    "optuna",
    "scipy",
    "matplotlib",
    "sklearn",
    "numpy",
)
ANSWERS = [
    ["lightning-vgg", "--help"],
    ["lightning-vgg", "fit", "--help"],
    ["lightning-vgg", "compare", "--help"],
    ["lightning-vgg", "tune", "--help"],
    ["lightning-vgg", "parity", "--help"],
    ["lightning-vgg", "report", "--help"],
    ["lightning-vgg", "show", "--help"],
    ["keras-reference", "--help"],
    ["keras-reference", "fit", "--help"],
    ["lightning-vgg", "fit", "--model.network.filters", "[3,x]"],
]
TRAININGS = ["lightning-vgg", "keras-reference"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    loaded: dict[str, list[str]] = {}
    for turn in range(options.turns + 1):
        for command in ANSWERS:
            took = answer_seconds(command)
            if turn:  # the first one reads the files from the disk
                seconds.setdefault(" ".join(command), []).append(took)
            else:
                loaded[" ".join(command)] = heavy_modules(command)
        for program in TRAININGS:
            took = first_step_seconds(program)
            if turn:
                seconds.setdefault(f"{program} fit, first step", []).append(took)
    figures = {name: {"seconds": spread(values), "loads": loaded.get(name)} for name, values in seconds.items()}
    rows = [
        [
            name,
            f"{statistics.median(values):.2f}",
            f"{min(values):.2f} - {max(values):.2f}",
            ", ".join(loaded[name]) or "none" if name in loaded else "",
        ]
        for name, values in seconds.items()
    ]
    columns = ["command", "seconds", "of all turns", "heavy packages loaded"]
    publish("startup", "Start-up", columns, rows, {"turns": options.turns, "commands": figures})


def answer_seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([BIN / command[0], *command[1:]], capture_output=True, check=False)
    return time.perf_counter() - start


def heavy_modules(command: list[str]) -> list[str]:
    module = {"lightning-vgg": "lightning_vgg.cli", "keras-reference": "keras_reference.cli"}[command[0]]
    code = (
        f"import sys, contextlib; from {module} import main; sys.argv = {command!r}\n"
        "with contextlib.suppress(SystemExit): main()\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return said.rpartition("loaded:")[2].split()


def first_step_seconds(program: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            BIN / program,
            "fit",
            "-c",
            ROOT / "configs" / "quickstart.yaml",
            "--trainer.max_epochs",
            "1",
            "--trainer.logger",
            "false",
            "--trainer.default_root_dir",
            folder,
        ]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "offline"})
        (record,) = Path(folder).glob("runs/*/*/run.json")
        return json.loads(record.read_text())["startup_seconds"]


if __name__ == "__main__":
    main()
