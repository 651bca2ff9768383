"""The batches that either side really trains and evaluates on, collected from their own loaders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from keras_reference import data as keras_data
from keras_reference.data import Preprocess
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.dataset import Dataset, Split
from lightning_vgg.training.data import DeviceImages, EvalLoader, TrainLoader
from parity_tests.pair import Tensors

IMAGES = 200
"""Enough for several batches and a smaller last one."""


def training_batches(data: DataSpec, dataset: Dataset, preprocess: Preprocess) -> tuple[Tensors, Tensors]:
    """Two epochs of the first images, float32: Lightning's batches, channels last, and Keras's by ``preprocess``."""
    part, images = _first(dataset.train, dataset)
    data, classes = replace(data, batch_size=48), len(dataset.class_names)
    batches = keras_data.TrainingBatches(part, classes, data, preprocess, seed=3)
    count = len(part.labels)
    ours, theirs = [], []
    for epoch in range(2):
        loader = TrainLoader(
            count,
            data.batch_size,
            draw=lambda epoch: draw_epoch(3, epoch, count, data.image_size, data.augmentation),
            epoch=lambda epoch=epoch: epoch,
            share=slice(None),
        )
        ours += [images.training_batch(rows, data.augmentation.cutout, classes)[:2] for rows in loader]
        batches.start_epoch(epoch)
        theirs += [(inputs, labels) for (inputs, _), labels in (batches[number] for number in range(len(batches)))]
    return _lightnings(ours), _named(theirs)


def evaluation_batches(data: DataSpec, dataset: Dataset, preprocess: Preprocess) -> tuple[Tensors, Tensors]:
    """All of the first test images, in order, float32: Lightning's batches, and Keras's by ``preprocess``."""
    part, images = _first(dataset.test, dataset)
    data = replace(data, eval_batch_size=48)
    batches = keras_data.EvaluationBatches(part, data, preprocess)
    loader = EvalLoader(len(part.labels), data.eval_batch_size, slice(None))
    ours = [images.evaluation_batch(rows) for rows in loader]
    return _lightnings(ours), _named([batches[number] for number in range(len(batches))])


def _first(part: Split, dataset: Dataset) -> tuple[Split, DeviceImages]:
    """A part's first images, in memory and as Lightning holds them on its device."""
    part = Split(part.images[:IMAGES], part.labels[:IMAGES])
    return part, DeviceImages(part, dataset.normalization, torch.device("cpu"), torch.float32)


def _lightnings(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Tensors:
    return _named([(images.permute(0, 2, 3, 1), labels) for images, labels in batches])


def _named(batches: list[tuple[Any, Any]]) -> Tensors:
    """Images (B, S, S, C) and labels (B,), or shares (B, classes), of each batch, by its number."""
    named = {}
    for number, (images, labels) in enumerate(batches):
        named |= {f"batch {number} images": np.asarray(images), f"batch {number} labels": np.asarray(labels)}
    return named
