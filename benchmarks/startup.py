"""Seconds until each command has answered, and which heavy packages it has loaded by then.

    python benchmarks/startup.py

``--help`` of every command, checking a configuration, and the commands that train up to the end of their first step
(``startup_seconds`` of run.json: from the start of the process). The commands take turns.
"""

from __future__ import annotations

import subprocess
import sys
import time

from common import CONFIGS, PROGRAMS, benchmark_parser, publish, spread, train

HEAVY = "torch torchvision lightning torchmetrics keras tensorflow wandb optuna scipy matplotlib sklearn numpy"
ANSWERS = [
    "lightning-vgg --help",
    *(f"lightning-vgg {command} --help" for command in ("fit", "compare", "tune", "parity", "report", "show")),
    "keras-reference --help",
    "keras-reference fit --help",
    "lightning-vgg fit --model.network.filters [3,x]",
]
TRAININGS = ["lightning-vgg", "keras-reference"]


def main() -> None:
    parser = benchmark_parser("startup", __doc__)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    loaded = {command: heavy_modules(command) for command in ANSWERS}  # which also reads the files from the disk
    for program in TRAININGS:
        first_step_seconds(program)
    seconds: dict[str, list[float]] = {}
    for _ in range(options.turns):
        for command in ANSWERS:
            seconds.setdefault(command, []).append(answer_seconds(command))
        for program in TRAININGS:
            seconds.setdefault(f"{program} fit, first step", []).append(first_step_seconds(program))
    figures = {name: {"seconds": spread(values), "loads": loaded.get(name)} for name, values in seconds.items()}
    rows = []
    for name, figure in figures.items():
        took, packages = figure["seconds"], "" if figure["loads"] is None else ", ".join(figure["loads"]) or "none"
        rows.append([name, f"{took['median']:.2f}", f"{took['min']:.2f} - {took['max']:.2f}", packages])
    columns = ["command", "seconds", "of all turns", "heavy packages loaded"]
    publish(options.output, "Start-up", columns, rows, {"turns": options.turns, "commands": figures})


def answer_seconds(command: str) -> float:
    program, *arguments = command.split()
    start = time.perf_counter()
    subprocess.run([PROGRAMS / program, *arguments], capture_output=True, check=False)
    return time.perf_counter() - start


def heavy_modules(command: str) -> list[str]:
    module = command.split()[0].replace("-", "_") + ".cli"
    code = (
        f"import sys, contextlib; from {module} import main; sys.argv = {command.split()!r}\n"
        "with contextlib.suppress(SystemExit): main()\n"
        f"print('loaded:', *[name for name in {HEAVY!r}.split() if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return output.rpartition("loaded:")[2].split()


def first_step_seconds(program: str) -> float:
    settings = {"trainer.max_epochs": 1, "trainer.logger": False}
    record, _ = train(program, CONFIGS / "quickstart.yaml", settings)
    return record["startup_seconds"]


if __name__ == "__main__":
    main()
