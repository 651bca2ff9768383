"""``lightning-vgg predict RUN IMAGE ...``: the class of image files, by a run's best checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.parsing import read_config
from lightning_vgg.images.batches import Normalization, normalize
from lightning_vgg.images.sources import image_files, open_image
from lightning_vgg.runs.folder import RunFolder

_BATCH = 256


def main(command: str, args: list[str]) -> None:
    parser = argparse.ArgumentParser(f"lightning-vgg {command}", description="Name the class of image files.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/quickstart/2026-01-31_12-00-00_seed0")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    arguments = parser.parse_args(args)
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


def predict_probabilities(run: RunFolder, files: list[Path]) -> np.ndarray:
    """Probabilities of every class, float32 (files, classes), by the run's best checkpoint.

    Raises:
        ExperimentError: the run has no checkpoint, or a file is no image.
    """
    import torch

    from lightning_vgg.training.export import load_classifier

    model = load_classifier(run)
    record = run.read_record()["normalization"]
    normalization = Normalization(tuple(record["mean"]), tuple(record["std"]))
    images = np.stack([open_image(file, read_config(run.path / "config.yaml").data.image_size) for file in files])
    batch = torch.from_numpy(normalize(images, normalization, np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return np.asarray(model(batch).softmax(1))
