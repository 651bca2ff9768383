"""The batches that ``model.fit`` and ``model.predict`` see: the same numbers as on the Lightning side, bit for bit."""

from __future__ import annotations

import keras
import numpy as np

from lightning_vgg.experiment.batches import Normalization, cut_batch, normalize
from lightning_vgg.experiment.dataset import Part
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import DataSpec

Batch = tuple[np.ndarray, np.ndarray]
"""Images ``dtype`` (B, S, S, C) and labels int64 (B,)."""


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The training images in the order of the epoch's draws, augmented; the last batch may be smaller.

    ``model.fit`` takes it with ``shuffle=False``, and a callback calls :meth:`start_epoch`.
    """

    def __init__(self, part: Part, spec: DataSpec, normalization: Normalization, seed: int, dtype: str) -> None:
        super().__init__()
        self.part = part
        self.spec = spec
        self.normalization = normalization
        self.seed = seed
        self.dtype = np.dtype(dtype)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order, flips and shifts of an epoch (0, 1, ...)."""
        self.draws = draw_epoch(self.seed, epoch, len(self.part.labels), self.spec.image_size, self.spec.augmentation)

    def __len__(self) -> int:
        return -(-len(self.part.labels) // self.spec.batch_size)

    def __getitem__(self, number: int) -> Batch:
        rows = self.draws[slice(number * self.spec.batch_size, (number + 1) * self.spec.batch_size)]
        cutout = self.spec.augmentation.cutout
        images = cut_batch(self.part.images, rows, cutout, self.normalization, self.dtype)
        return images, self.part.labels[rows.index]


class EvaluationBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """All images of a part in order, each once."""

    def __init__(self, part: Part, spec: DataSpec, normalization: Normalization, dtype: str) -> None:
        super().__init__()
        self.part = part
        self.batch_size = spec.eval_batch_size
        self.normalization = normalization
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return -(-len(self.part.labels) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return normalize(self.part.images[rows], self.normalization, self.dtype), self.part.labels[rows]
