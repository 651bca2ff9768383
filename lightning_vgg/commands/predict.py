"""``lightning-vgg predict RUN IMAGE ...``: classify image files with a run's best checkpoint."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from lightning_vgg.api import predict_probabilities
from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.images.sources import image_files
from lightning_vgg.runs.folder import RunFolder, atomic_write

_BATCH = 256


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(f"lightning-vgg {command}", "Classify image files.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/quickstart/2026-01-31_12-00-00_seed0")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--csv", type=Path, help="also write the probability of every class to this file")
    parser.add_argument("--gallery", type=Path, help="also write an HTML file that shows the images by class")
    arguments = parser.read(args)
    files = [file for path in arguments.images for file in image_files(path)]
    if not files:
        raise ExperimentError(f"there is no image in {', '.join(map(str, arguments.images))}")
    for path in (arguments.csv, arguments.gallery):
        if path is not None and not path.parent.is_dir():
            raise ExperimentError(f"there is no folder {path.parent} for {path.name}")
    run = RunFolder.open(arguments.run)
    class_names = run.read_record()["class_names"]
    width = max(len(str(file)) for file in files)
    found = []
    for first in range(0, len(files), _BATCH):
        batch = files[first : first + _BATCH]
        found.append(predict_probabilities(run, batch))
        for file, probabilities in zip(batch, found[-1], strict=True):
            best = int(probabilities.argmax())
            print(f"{file!s:<{width}}  {class_names[best]}  {probabilities[best]:.1%}")
    if arguments.csv is not None:
        write_table(arguments.csv, files, np.concatenate(found), class_names)
    if arguments.gallery is not None:
        from lightning_vgg.show.gallery import write_gallery

        write_gallery(arguments.gallery, files, np.concatenate(found), class_names)


def write_table(path: Path, files: list[Path], probabilities: np.ndarray, class_names: list[str]) -> None:
    """One row an image: its path, the most likely class, and the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", *class_names])
    for file, row in zip(files, probabilities, strict=True):
        writer.writerow([file, class_names[row.argmax()], *(f"{value:.6f}" for value in row)])
    with atomic_write(path) as table:
        table.write(text.getvalue().encode())
