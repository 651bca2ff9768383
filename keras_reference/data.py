"""The batches that ``model.fit`` and ``model.predict`` see: the same numbers as on the Lightning side, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from keras_reference.splitmix64 import as_words
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.batches import Normalization, normalize, training_batch
from lightning_vgg.images.dataset import Split
from lightning_vgg.images.stored import MappedFile

Batch = tuple[np.ndarray, np.ndarray]
"""Images (B, S, S, C), or features (B, ...), and labels int64 (B,)."""
TrainingBatch = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]
"""The same; with the images, the keys of their dropout masks, int32 (B, 2). Mixed images have shares (B, classes)."""

Preprocess = Callable[[np.ndarray], np.ndarray]
"""Images (B, S, S, C) of pixels 0..255 -> what the network reads, in its dtype."""


def normalizer(normalization: Normalization, dtype: str) -> Preprocess:
    return lambda images: normalize(images, normalization, np.dtype(dtype))


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The training images in the order of the epoch's draws, augmented; the last batch may be smaller.

    ``model.fit`` takes it with ``shuffle=False``, and a callback calls :meth:`start_epoch`. With ``features`` (N, ...)
    their rows take the place of the images. ``classes``: how many there are.
    """

    def __init__(
        self,
        part: Split,
        classes: int,
        spec: DataSpec,
        preprocess: Preprocess,
        seed: int,
        features: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.part = part
        self.classes = classes
        self.spec = spec
        self.preprocess = preprocess
        self.seed = seed
        self.features = None if features is None else MappedFile(features)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order, the augmentation and the mask keys of an epoch (0, 1, ...)."""
        self.draws = draw_epoch(self.seed, epoch, len(self.part.labels), self.spec.image_size, self.spec.augmentation)

    def __len__(self) -> int:
        return self.spec.batches_per_epoch(len(self.part.labels))

    def __getitem__(self, number: int) -> TrainingBatch:
        rows = self.draws[slice(number * self.spec.batch_size, (number + 1) * self.spec.batch_size)]
        images, labels = self.part
        if self.features is not None:
            inputs, targets = self.features[rows.index], labels[rows.index]
        else:
            cutout = self.spec.augmentation.cutout
            inputs, targets = training_batch(images, labels, self.classes, rows, cutout, self.preprocess)
        return (inputs, as_words(rows.mask_key)), targets


class EvaluationBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """All images of a part in order, each once; or their ``features`` (N, ...)."""

    def __init__(self, part: Split, spec: DataSpec, preprocess: Preprocess, features: np.ndarray | None = None) -> None:
        super().__init__()
        self.part = part
        self.batch_size = spec.eval_batch_size
        self.preprocess = preprocess
        self.features = None if features is None else MappedFile(features)

    def __len__(self) -> int:
        return -(-len(self.part.labels) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        inputs = self.preprocess(self.part.images[rows]) if self.features is None else self.features[rows]
        return inputs, self.part.labels[rows]
