"""What a trained network has learned and does: PNGs of filters, activations, mistakes, and Grad-CAM."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import TqdmWarning

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.images.batches import normalize
from lightning_vgg.images.dataset import recorded_normalization
from lightning_vgg.images.sources import load_images, open_image, sizing_of
from lightning_vgg.images.stored import brightness
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.training.export import load_classifier
from lightning_vgg.training.module import VGGClassifier

SHOWN = 64
"""Filters or channels in a picture, at most."""


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
        """What the network reads, float (1, C, S, S)."""
        image = brightness(image) if self.data.grayscale else image
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


def draw_filters(trained: TrainedRun, file: IO[bytes]) -> None:
    """The first layer's kernels (out, 3, k, k) as RGB, or (out, 1, k, k) as grey, each stretched to its own range."""
    name, layer = next(iter(trained.convolutions().items()))
    kernels = layer.weight.detach().numpy()[:SHOWN].transpose(0, 2, 3, 1)
    low = kernels.min((1, 2, 3), keepdims=True)
    kernels = (kernels - low) / np.maximum(kernels.max((1, 2, 3), keepdims=True) - low, 1e-12)
    if kernels.shape[-1] == 1:
        kernels = kernels.repeat(3, axis=-1)
    _draw_grid(list(kernels), [""] * len(kernels), f"filters of {name}", file)


def draw_activations(trained: TrainedRun, which: str, layer: str | None, file: IO[bytes]) -> None:
    """The output of a convolution, by default the last, for an image: one map a channel, all on one scale."""
    name, module = trained.convolution(layer)
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach().clone()))
    image = trained.image(which)
    with torch.no_grad():
        trained.classifier(trained.batch(image))
    handle.remove()
    maps = outputs[0][0, : SHOWN - 1].numpy()
    pictures = [image, *(maps / max(maps.max(), 1e-12))]
    _draw_grid(pictures, ["image"] + [""] * len(maps), f"{name}: activations", file)


def most_wrong(labels: np.ndarray, logits: np.ndarray, count: int) -> np.ndarray:
    """Indices of the wrongly classified images whose true class has the lowest probability, at most ``count``.

    Args:
        labels: (N,).
        logits: (N, classes).
        count: of images.
    """
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    of_truth = logits[wrong, labels[wrong]] - np.logaddexp.reduce(logits[wrong], axis=1)
    return wrong[np.argsort(of_truth, kind="stable")[:count]]


def draw_mistakes(trained: TrainedRun, file: IO[bytes]) -> None:
    """The test images whose true class was given the lowest probability, worst first."""
    labels, logits = trained.run.read_predictions()
    worst = most_wrong(labels, logits, count=24)
    names = trained.class_names
    sure = np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1))
    captions = [
        f"{names[labels[number]]}\ntaken for {names[logits[number].argmax()]}, {sure[number]:.0%}" for number in worst
    ]
    wrong = int((logits.argmax(1) != labels).sum())
    title = f"the most wrong of {wrong:,} wrong answers on {len(labels):,} test images"
    _draw_grid([trained.test_image(int(number)) for number in worst], captions, title, file, columns=6)


def draw_attention(trained: TrainedRun, which: str, layer: str | None, file: IO[bytes]) -> None:
    """Grad-CAM (Selvaraju et al., 2017) by captum: which parts of an image speak for the predicted class."""
    require("captum", "show")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # in a notebook without widgets, for progress bars that it has
        from captum.attr import LayerGradCam

    name, module = trained.convolution(layer)
    image = trained.image(which)
    batch = trained.batch(image)
    with torch.no_grad():
        probabilities = trained.classifier(batch).softmax(1)[0]
    best = int(probabilities.argmax())
    heat = LayerGradCam(trained.classifier, module).attribute(batch, target=best, relu_attributions=True)
    heat = nn.functional.interpolate(heat.detach(), image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    heat = heat / max(heat.max(), 1e-12)
    overlay = 0.45 * image / 255 + 0.55 * _colour_map(heat)
    title = f"{trained.class_names[best]} {probabilities[best]:.0%}, Grad-CAM of {name}"
    _draw_grid([image, _colour_map(heat), overlay], ["image", "Grad-CAM", "both"], title, file, columns=3)


def _colour_map(heat: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps["inferno"](heat)[..., :3]


def _draw_grid(
    pictures: Sequence[np.ndarray], captions: Sequence[str], title: str, file: IO[bytes], columns: int | None = None
) -> None:
    """A PNG of pictures (H, W) in 0..1, or (H, W, 3), in rows from left to right."""
    from matplotlib.figure import Figure

    columns = min(len(pictures), columns or math.ceil(math.sqrt(2 * len(pictures)))) or 1
    rows = max(1, math.ceil(len(pictures) / columns))
    side = 2.4 if columns <= 6 else 1.0
    caption = 0.5 if captions[-1] else 0.15
    figure = Figure(figsize=(max(6.0, columns * side), rows * (side + caption) + 0.7), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=15, fontweight="bold", color="#1b1f24")
    axes: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.set_axis_off()
    for place, picture, text in zip(axes, pictures, captions, strict=False):
        place.imshow(picture, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        place.set_title(text, fontsize=10, color="#30363d")
    figure.savefig(file, format="png")
