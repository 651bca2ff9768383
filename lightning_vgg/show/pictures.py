"""What a trained network has learned and does: PNGs of filters, activations, mistakes, and Grad-CAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lightning_vgg.runs.heat import coloured, overlaid, stretched
from lightning_vgg.runs.mistakes import surest_mistakes
from lightning_vgg.runs.scores import probabilities
from lightning_vgg.training.grad_cam import grad_cam
from lightning_vgg.training.trained_run import TrainedRun

SHOWN = 64
"""Filters or channels in a picture, at most."""


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


def draw_mistakes(trained: TrainedRun, file: IO[bytes]) -> None:
    """The wrongly classified test images that the network was surest of."""
    labels, logits = trained.run.read_predictions()
    worst = surest_mistakes(labels, logits, count=24)
    names, sure = trained.class_names, probabilities(logits).max(1)
    captions = [
        f"{names[labels[number]]}\ntaken for {names[logits[number].argmax()]}, {sure[number]:.0%}" for number in worst
    ]
    wrong = int((logits.argmax(1) != labels).sum())
    title = f"the surest of {wrong:,} wrong answers on {len(labels):,} test images"
    _draw_grid([trained.test_image(number) for number in worst], captions, title, file, columns=6)


def draw_attention(trained: TrainedRun, which: str, layer: str | None, file: IO[bytes]) -> None:
    """Grad-CAM: which parts of an image speak for the predicted class."""
    name, module = trained.convolution(layer)
    image = trained.image(which)
    with torch.no_grad():
        likely = trained.classifier(trained.batch(image)).softmax(1)[0]
    best = int(likely.argmax())
    heat = grad_cam(trained.classifier, trained.batch(image), best, module)
    title = f"{trained.class_names[best]} {likely[best]:.0%}, Grad-CAM of {name}"
    pictures = [image, coloured(stretched(heat, image.shape[:2])), overlaid(image, heat)]
    _draw_grid(pictures, ["image", "Grad-CAM", "both"], title, file, columns=3)


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
