"""What a training that mixes images reports: the mixed loss, and the accuracy of the label with the larger share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_vgg
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import AugmentationSpec
from lightning_vgg.images.batches import normalize, training_batch
from lightning_vgg.training.export import load_classifier

AUGMENTATION = AugmentationSpec(mixup=0.5, cutmix=1.0)
SETTINGS = {
    "data.source": "digits",
    "data.image_size": 8,
    "data.train_images": 150,
    "data.batch_size": 40,
    "data.augmentation.mixup": 0.5,
    "data.augmentation.cutmix": 1.0,
    "model.network.conv_block": "conv - maxpool",
    "model.network.filters": [6],
    "model.network.units": [],
    "model.optimizer.name": "sgd",
    "model.optimizer.learning_rate": 1e-30,  # the weights stay
    "trainer.max_epochs": 2,
    "trainer.precision": "64-true",
    "trainer.logger": False,
}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_accuracy_of_mixed_images(smoothing: float, tmp_path: Path) -> None:
    settings = {**SETTINGS, "model.label_smoothing": smoothing, "trainer.default_root_dir": tmp_path}
    run, dataset = lightning_vgg.fit(settings), lightning_vgg.load_images(settings)
    network, (images, labels) = load_classifier(run).network.double(), dataset.train
    for epoch, row in enumerate(run.read_history()):
        draws = draw_epoch(0, epoch, len(labels), 8, AUGMENTATION)
        losses, right = [], []
        for first in range(0, len(labels), 40):
            batch = draws[first : first + 40]
            inputs, _ = training_batch(
                images, labels, 10, batch, 0, lambda pixels: normalize(pixels, dataset.normalization, np.float64)
            )
            with torch.no_grad():
                logits = network(torch.from_numpy(inputs).permute(0, 3, 1, 2)).numpy()
            negative = np.log(np.exp(logits).sum(1, keepdims=True)) - logits
            smoothed = (1 - smoothing) * negative + smoothing * negative.mean(1, keepdims=True)
            own, share = labels[batch.index], batch.mixing.share
            other, each = own[batch.mixing.partners()], np.arange(len(own))
            losses.append(share * smoothed[each, own] + (1 - share) * smoothed[each, other])
            right.append(logits.argmax(1) == np.where(share > 0.5, own, other))
        assert row["train_loss"] == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)
        assert row["train_acc"] == np.concatenate(right).mean()
