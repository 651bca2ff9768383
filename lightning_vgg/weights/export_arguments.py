"""The command line of ``export``, of either program."""

from __future__ import annotations

from pathlib import Path

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.runs.folder import RunFolder


def run_and_output(program: str, args: list[str]) -> tuple[RunFolder, Path | None]:
    """The run and the file that a command line of either program names."""
    parser = CommandParser(program, "Write a run's best weights as one file.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--output", type=Path, help="default: RUN/weights.safetensors")
    arguments = parser.read(args)
    return RunFolder.open(arguments.run), arguments.output
