"""``lightning-vgg export RUN``: a run's best weights as the neutral file."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_vgg.runs.folder import RunFolder


def main(command: str, args: list[str]) -> None:
    run, output = run_and_output(f"lightning-vgg {command}", args)
    from lightning_vgg.training.export import export_run  # loads torch, which --help can do without

    print(export_run(run, output))


def run_and_output(program: str, args: list[str]) -> tuple[RunFolder, Path | None]:
    """What a command line names, of either program."""
    parser = argparse.ArgumentParser(program, description="Write a run's best weights as one file.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--output", type=Path, help="default: RUN/weights.safetensors")
    arguments = parser.parse_args(args)
    return RunFolder.open(arguments.run), arguments.output
