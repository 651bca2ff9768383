"""Image files of odd shapes made square: by the reader of folders, by Keras, and by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.sources import open_image, sizing_of
from lightning_vgg.images.stored import Images
from parity_tests.frameworks import keras
from parity_tests.pair import Tensors

Mode = Literal["squash", "crop", "pad"]

SHAPES = (97, 60), (61, 95), (45, 32), (20, 31)
"""Widths and heights of which every rule that rounds a window or a side to whole pixels has to round one."""
SIZE = 32
"""A power of two: of other sizes TensorFlow loses the last row or column of some shapes, as it pads in float32."""


def squares(images: Images) -> Iterator[tuple[Mode, str, Tensors, Tensors]]:
    """Files of the first images, made square in each mode.

    Args:
        images: uint8 (N, S, S, C), of three channels or one.

    Yields:
        The mode, whose way it is, our squares by the name of their file, and theirs: (S, S, 3), pixels 0..255.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        first = images[np.arange(len(SHAPES)) % len(images)]
        for (width, height), image in zip(SHAPES, first, strict=True):
            photo = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
            photo.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{width}x{height}.png")
        for mode in get_args(Mode):
            yield mode, "Keras", _ours(folder, mode, antialias=False), _keras(folder, mode)
            yield mode, "torchvision", _ours(folder, mode, antialias=True), _torchvision(folder, mode)


def _of_files(folder: Path, square: Callable[[Path], np.ndarray]) -> Tensors:
    return {file.name: square(file) for file in sorted(folder.iterdir())}


def _ours(folder: Path, mode: Mode, antialias: bool) -> Tensors:
    sizing = sizing_of(DataSpec(image_size=SIZE, resize=mode, antialias=antialias))
    return _of_files(folder, lambda file: open_image(file, sizing).astype(np.float32))


def _keras(folder: Path, mode: Mode) -> Tensors:
    dataset = keras.utils.image_dataset_from_directory(
        folder,
        labels=None,
        batch_size=None,
        image_size=(SIZE, SIZE),
        shuffle=False,
        crop_to_aspect_ratio=mode == "crop",
        pad_to_aspect_ratio=mode == "pad",
        verbose=False,
    )
    return {Path(file).name: np.asarray(image) for file, image in zip(dataset.file_paths, dataset, strict=True)}


def _torchvision(folder: Path, mode: Mode) -> Tensors:
    """Of tensors, which Pillow has no part in. Where to pad is left to its user, so that is as in Keras."""

    def square(file: Path) -> np.ndarray:
        with Image.open(file) as photo:
            image = torch.from_numpy(np.array(photo, np.float32)).permute(2, 0, 1)
        if mode == "squash":
            image = F.resize(image, [SIZE, SIZE], antialias=True)
        elif mode == "crop":
            image = F.center_crop(F.resize(image, [SIZE], antialias=True), [SIZE, SIZE])
        else:
            top, left = (int((SIZE - SIZE * side / max(image.shape)) / 2) for side in image.shape[1:])
            image = F.resize(image, None, max_size=SIZE, antialias=True)
            image = F.pad(image, [left, top, SIZE - image.shape[2] - left, SIZE - image.shape[1] - top])
        return image.permute(1, 2, 0).numpy()

    return _of_files(folder, square)
