"""The batches that either side really trains and evaluates on, collected from their own loaders."""

from __future__ import annotations

from dataclasses import replace

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
    part = Split(dataset.train.images[:IMAGES], dataset.train.labels[:IMAGES])
    images = DeviceImages(part, dataset.normalization, torch.device("cpu"), torch.float32)
    data = replace(data, batch_size=48)
    theirs = keras_data.TrainingBatches(part, data, preprocess, seed=3)
    ours_of, theirs_of = {}, {}
    for epoch in range(2):
        loader = TrainLoader(
            len(part.labels),
            data.batch_size,
            draw=lambda epoch: draw_epoch(3, epoch, len(part.labels), data.image_size, data.augmentation),
            epoch=lambda epoch=epoch: epoch,
            share=slice(None),
        )
        for number, rows in enumerate(loader):
            pixels, labels = images.training_batch(rows, data.augmentation.cutout)
            ours_of |= _named(f"epoch {epoch} batch {number}", pixels.permute(0, 2, 3, 1).numpy(), labels.numpy())
        theirs.start_epoch(epoch)
        for number in range(len(theirs)):
            theirs_of |= _named(f"epoch {epoch} batch {number}", *theirs[number])
    return ours_of, theirs_of


def evaluation_batches(data: DataSpec, dataset: Dataset, preprocess: Preprocess) -> tuple[Tensors, Tensors]:
    """All of the first test images, in order, float32: Lightning's batches, and Keras's by ``preprocess``."""
    part = Split(dataset.test.images[:IMAGES], dataset.test.labels[:IMAGES])
    images = DeviceImages(part, dataset.normalization, torch.device("cpu"), torch.float32)
    data = replace(data, eval_batch_size=48)
    theirs = keras_data.EvaluationBatches(part, data, preprocess)
    ours_of: Tensors = {}
    for number, rows in enumerate(EvalLoader(len(part.labels), data.eval_batch_size, slice(None))):
        pixels, labels = images.evaluation_batch(rows)
        ours_of |= _named(f"batch {number}", pixels.permute(0, 2, 3, 1).numpy(), labels.numpy())
    theirs_of: Tensors = {}
    for number in range(len(theirs)):
        theirs_of |= _named(f"batch {number}", *theirs[number])
    return ours_of, theirs_of


def _named(name: str, images: np.ndarray, labels: np.ndarray) -> Tensors:
    return {f"{name} images": np.asarray(images), f"{name} labels": np.asarray(labels)}
