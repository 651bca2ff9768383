"""A run's best network, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import recorded_normalization
from lightning_vgg.images.sources import load_images, open_image, sizing_of
from lightning_vgg.images.stored import brightness
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.training.export import load_classifier
from lightning_vgg.training.module import VGGClassifier


class TrainedRun:
    """A run's best network and its images.

    Attributes:
        classifier: in evaluation mode; all its layers have gradients.
        class_names: in the order of the logits.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.classifier: VGGClassifier = load_classifier(run)
        if self.classifier.backbone is not None:
            self.classifier.backbone.freeze(0)
        self.class_names: list[str] = run.read_record()["class_names"]
        self.normalization = recorded_normalization(run)
        self.data = read_experiment(run.path / "config.yaml").data

    def test_image(self, number: int) -> np.ndarray:
        """uint8 (S, S, 3).

        Raises:
            ExperimentError: there are fewer test images.
        """
        images = load_images(self.data).test_images
        if not 0 <= number < len(images):
            raise ExperimentError(f"there is no test image {number}: they are 0 to {len(images) - 1}")
        return images[number]

    def image(self, which: str) -> np.ndarray:
        """uint8 (S, S, 3): a test image by its number, or a file."""
        return self.test_image(int(which)) if which.isdigit() else open_image(Path(which), sizing_of(self.data))

    def batch(self, image: np.ndarray) -> Tensor:
        """What the network reads, float (1, C, S, S), of an image (S, S, 3), or (S, S, 1) with data.grayscale."""
        image = brightness(image) if self.data.grayscale and image.shape[-1] == 3 else image
        return torch.from_numpy(normalize(image[None], self.normalization, np.float32)).permute(0, 3, 1, 2)

    def convolutions(self) -> dict[str, nn.Conv2d]:
        """By their names in the network."""
        network = self.classifier.network
        return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}

    def convolution(self, name: str | None) -> tuple[str, nn.Conv2d]:
        """The named one, or the last.

        Raises:
            ExperimentError: there is none of that name.
        """
        layers = self.convolutions()
        if not layers:
            raise ExperimentError(f"{self.run.path} has no convolution")
        if name is not None and name not in layers:
            raise ExperimentError(f"--layer: there is no convolution {name}; there are {', '.join(layers)}")
        return (name, layers[name]) if name is not None else list(layers.items())[-1]
