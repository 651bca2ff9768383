"""``lightning-vgg export RUN``: a run's best weights as the neutral file."""

from __future__ import annotations

from pathlib import Path

from lightning_vgg.api import export_weights
from lightning_vgg.common.command_parser import CommandParser


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(f"lightning-vgg {command}", "Write a run's best weights as one file.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--output", type=Path, help="default: RUN/weights.safetensors")
    arguments = parser.read(args)
    print(export_weights(arguments.run, arguments.output))
