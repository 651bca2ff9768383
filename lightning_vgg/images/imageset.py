"""The images and labels of one data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lightning_vgg.common.errors import DataError as DataError
from lightning_vgg.images.stored import Images, chunks

Labels = npt.NDArray[np.int64]


def error_text(error: BaseException) -> str:
    """An error's message, or its class name if it has none."""
    return str(error) or type(error).__name__


_NO_IMAGES: Images = np.empty((0, 1, 1, 3), np.uint8)
_NO_LABELS: Labels = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """uint8 images (N, S, S, 3), in memory or in a file, int64 labels (N,) and the names the labels stand for."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]
    fingerprint: str
    """sha256 (hex) of the decoded images, the labels and the class names."""
    left_out: tuple[str, ...] = ()
    """Images that could not be decoded, each with the reason."""
    val_images: Images = field(default_factory=lambda: _NO_IMAGES)
    val_labels: Labels = field(default_factory=lambda: _NO_LABELS)
    """Validation images of the source's own; none where they are to be taken from the training images."""
    remarks: tuple[str, ...] = ()
    """What the user should know of the files before training, each a sentence."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return int(self.train_images.shape[1])


def make_image_set(
    train: tuple[Images, Labels],
    test: tuple[Images, Labels],
    class_names: Sequence[str],
    left_out: Sequence[str] = (),
    val: tuple[Images, Labels] = (_NO_IMAGES, _NO_LABELS),
    remarks: Sequence[str] = (),
) -> ImageSet:
    """An ImageSet with its fingerprint computed; `train`, `test` and `val` are (images, labels)."""
    digest = hashlib.sha256(json.dumps(list(class_names)).encode())
    for images, labels in (train, test, *([val] if len(val[1]) else [])):
        digest.update(f"{images.dtype.str}{images.shape}".encode())
        for chunk in chunks(images):
            digest.update(chunk.data)
        digest.update(f"{labels.dtype.str}{labels.shape}".encode())
        digest.update(np.ascontiguousarray(labels).data)
    return ImageSet(*train, *test, tuple(class_names), digest.hexdigest(), tuple(left_out), *val, tuple(remarks))
