"""``lightning-vgg predict RUN IMAGE ...``: classify image files with a run's best checkpoint."""

from __future__ import annotations

from pathlib import Path

from lightning_vgg.api import predict_probabilities
from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.images.sources import image_files
from lightning_vgg.runs.folder import RunFolder

_BATCH = 256


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(f"lightning-vgg {command}", "Classify image files.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/quickstart/2026-01-31_12-00-00_seed0")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    arguments = parser.read(args)
    files = [file for path in arguments.images for file in image_files(path)]
    if not files:
        raise ExperimentError(f"there is no image in {', '.join(map(str, arguments.images))}")
    run = RunFolder.open(arguments.run)
    width = max(len(str(file)) for file in files)
    for first in range(0, len(files), _BATCH):
        batch = files[first : first + _BATCH]
        for file, probabilities in zip(batch, predict_probabilities(run, batch), strict=True):
            best = int(probabilities.argmax())
            print(f"{file!s:<{width}}  {run.read_record()['class_names'][best]}  {probabilities[best]:.1%}")
