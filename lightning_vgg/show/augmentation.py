"""What the augmentation makes of training images, as a PNG, without any framework."""

from __future__ import annotations

from dataclasses import replace
from typing import IO, Any

import numpy as np

from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec, ExperimentSpec
from lightning_vgg.images.batches import normalize, training_batch
from lightning_vgg.images.dataset import Dataset, load_dataset
from lightning_vgg.weights.source import expected_normalization

IMAGES = 6
EPOCHS = 6


def draw_augmentation(experiment: ExperimentSpec, file: IO[bytes]) -> None:
    """Some training images, and beside each what the network sees of it in the first epochs.

    An experiment without augmentation gets each kind by itself, to choose from.

    Raises:
        ExperimentError: the images cannot be loaded, or a backbone's weights cannot be found.
    """
    model, data = experiment.model, experiment.data
    weights = model.backbone
    normalization = None if weights is None else expected_normalization(weights, model.resolved_semantics)
    dataset = load_dataset(data, normalization)
    if data.augmentation == AugmentationSpec():
        title, shown = "each augmentation by itself", examples(data.image_size)
    else:
        title, shown = f"{experiment.experiment}: what the network sees", [("", data.augmentation)] * IMAGES
    images = np.linspace(0, len(dataset.train.labels) - 1, len(shown)).astype(int)
    rows = []
    for (label, augmentation), image in zip(shown, images, strict=True):
        spec = replace(data, augmentation=augmentation)
        original = dataset.train.images[image], dataset.class_names[dataset.train.labels[image]]
        changed = [seen(dataset, spec, experiment.seed_everything, epoch, int(image)) for epoch in range(EPOCHS)]
        rows.append((label, [original, *changed]))
    _draw(rows, title, file)


def examples(image_size: int) -> list[tuple[str, AugmentationSpec]]:
    """Each setting with a value that shows what it does: its text, and an augmentation of nothing else."""
    values: dict[str, Any] = {
        "flip": True,
        "vertical_flip": True,
        "shift": image_size // 8,
        "rotation": 0.1,
        "zoom": 0.3,
        "resized_crop": 0.2,
        "contrast": 0.8,
        "brightness": 0.4,
        "cutout": image_size // 4,
        "erasing": 1.0,
        "mixup": 1.0,
        "cutmix": 1.0,
    }
    return [(f"{name}: {str(value).lower()}", AugmentationSpec(**{name: value})) for name, value in values.items()]


def seen(dataset: Dataset, spec: DataSpec, seed: int, epoch: int, image: int) -> tuple[np.ndarray, str]:
    """A training image as the network gets it in an epoch (0, 1, ...), in pixels again.

    Returns:
        uint8 (S, S, C); and the labels with their shares, or nothing where no labels are mixed.
    """
    images, labels = dataset.train
    draws = draw_epoch(seed, epoch, len(labels), spec.image_size, spec.augmentation)
    (place,) = np.flatnonzero(draws.index == image)
    first = place - place % spec.batch_size
    batch, targets = training_batch(
        images,
        labels,
        len(dataset.class_names),
        draws[first : first + spec.batch_size],
        spec.augmentation.cutout,
        lambda pixels: normalize(pixels, dataset.normalization, np.float32),
    )
    mean, scale = dataset.normalization.constants(np.float32)
    pixels = np.rint(batch[place - first] / scale + mean).clip(0, 255).astype(np.uint8)
    if targets.ndim == 1:
        return pixels, ""
    shares = targets[place - first]
    named = [label for label in np.argsort(-shares) if shares[label] >= 0.005]
    return pixels, "\n".join(f"{shares[label]:.0%} {dataset.class_names[label]}" for label in named)


def _draw(rows: list[tuple[str, list[tuple[np.ndarray, str]]]], title: str, file: IO[bytes]) -> None:
    """Rows of pictures, each with a caption below."""
    from matplotlib.figure import Figure

    columns = EPOCHS + 1
    heights = [1.25 + 0.14 * max(caption.count("\n") for _, caption in pictures) for _, pictures in rows]
    figure = Figure(figsize=(1.15 * columns + 1.4, sum(heights) + 0.7), dpi=90, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", color="#1b1f24")
    axes: Any = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for place, heading in zip(axes[0], ["original", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS))], strict=True):
        place.set_title(heading, fontsize=9, color="#30363d")
    for places, (label, pictures) in zip(axes, rows, strict=True):
        places[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, color="#1b1f24")
        for place, (picture, caption) in zip(places, pictures, strict=True):
            place.imshow(picture if picture.shape[-1] == 3 else picture.repeat(3, axis=-1), interpolation="nearest")
            place.set_xlabel(caption, fontsize=7, color="#30363d", labelpad=2)
            place.set_xticks([])
            place.set_yticks([])
            for spine in place.spines.values():
                spine.set_visible(False)
    figure.savefig(file, format="png")
