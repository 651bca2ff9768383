"""The training loss, against torch's own and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vgg.experiment.semantics import KERAS, TORCH, Semantics
from lightning_vgg.training.loss import TrainingLoss

WEIGHTS = torch.tensor([0.25, 1.0, 3.0], dtype=torch.float64)


def batch(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_over_weights_it_is_torchs_own(smoothing: float) -> None:
    logits, labels = batch()
    expected = F.cross_entropy(logits, labels, WEIGHTS, label_smoothing=smoothing)
    torch.testing.assert_close(TrainingLoss(TORCH, smoothing, WEIGHTS)(logits, labels), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_over_images_it_is_the_sum_of_weighted_losses_by_their_number(smoothing: float) -> None:
    logits, labels = batch()
    losses = [
        F.cross_entropy(logits[row : row + 1], labels[row : row + 1], label_smoothing=smoothing) * WEIGHTS[labels[row]]
        for row in range(7)
    ]
    found = TrainingLoss(KERAS, smoothing, WEIGHTS)(logits, labels)
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("semantics", [KERAS, TORCH])
def test_shares_of_several_processes_add_up_to_the_batch(semantics: Semantics, weights: Tensor | None) -> None:
    """Three of them have 3, 4 and no images."""
    logits, labels = batch()
    loss = TrainingLoss(semantics, 0.1, weights)
    shares = [loss.sum_and_divisor(logits[rows], labels[rows]) for rows in (slice(3), slice(3, 7), slice(7, 7))]
    total, divisor = (torch.stack(parts).sum() for parts in zip(*shares, strict=True))
    torch.testing.assert_close(total / divisor, loss(logits, labels), rtol=1e-12, atol=0)


def test_without_weights_it_is_the_plain_mean_bit_for_bit_and_nothing_is_saved() -> None:
    logits, labels = batch()
    assert torch.equal(TrainingLoss(KERAS, 0.1)(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert not TrainingLoss(KERAS, 0.1, WEIGHTS).state_dict()


def test_the_loss_has_the_precision_of_the_logits() -> None:
    logits, labels = batch()
    assert TrainingLoss(KERAS, 0.0, WEIGHTS)(logits.float(), labels).dtype == torch.float32
