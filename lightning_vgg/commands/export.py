"""``lightning-vgg export RUN``: a run's best weights as the neutral file."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_vgg.runs.folder import RunFolder


def main(command: str, args: list[str]) -> None:
    parser = argparse.ArgumentParser(f"lightning-vgg {command}", description="Write a run's best weights as one file.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--output", type=Path, help="default: RUN/weights.safetensors")
    arguments = parser.parse_args(args)
    from lightning_vgg.training.export import export_run  # loads torch, which --help can do without

    print(export_run(RunFolder.open(arguments.run), arguments.output))
