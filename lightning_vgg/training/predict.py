"""The classes of image files, by a run's best checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import recorded_normalization
from lightning_vgg.images.sources import open_image, sizing_of
from lightning_vgg.images.stored import brightness
from lightning_vgg.runs.folder import RunFolder


def predict_probabilities(run: RunFolder, files: list[Path]) -> np.ndarray:
    """Probabilities of every class, float32 (files, classes), by the run's best checkpoint.

    Raises:
        ExperimentError: the run has no checkpoint, or a file is no image.
    """
    import torch

    from lightning_vgg.training.export import load_classifier

    model = load_classifier(run)
    data = read_experiment(run.path / "config.yaml").data
    images = np.stack([open_image(file, sizing_of(data)) for file in files])
    images = brightness(images) if data.grayscale else images
    batch = torch.from_numpy(normalize(images, recorded_normalization(run), np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return np.asarray(model(batch).softmax(1))
