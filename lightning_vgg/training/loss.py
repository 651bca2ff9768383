"""The training loss: cross-entropy, smoothed and weighted as the experiment has it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vgg.experiment.semantics import Semantics


class TrainingLoss(torch.nn.Module):
    """Mean loss of a batch: logits (B, classes), labels (B,) -> scalar.

    Args:
        semantics: whether class weights divide by the images, Σwℓ/N, or by their weights, Σwℓ/Σw. The latter is torch's
            ``cross_entropy(weight=...)``, which weighs label smoothing's share of each class by that class, too.
        label_smoothing: share of the target spread evenly over all classes.
        class_weights: float64 (classes,); None for none.
    """

    class_weights: Tensor | None

    def __init__(self, semantics: Semantics, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.by_weight = semantics.weighted_mean == "over_weights"
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.class_weights is None:
            return self.unweighted(logits, labels)
        total, divisor = self.sum_and_divisor(logits, labels)
        return total / divisor

    def unweighted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same without class weights, as history has it."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def sum_and_divisor(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What each process adds up of its share of a batch: losses, and images or weights; scalars, 0 of no images."""
        if self.class_weights is None:
            total = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="sum")
            return total, _count(labels, logits)
        weights = self.class_weights.to(torch.promote_types(logits.dtype, torch.float32))
        of_images = weights[labels]
        if self.by_weight:
            total = F.cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing, reduction="sum")
            return total, of_images.sum()
        losses = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
        return (losses * of_images).sum(), _count(labels, logits)


def _count(labels: Tensor, logits: Tensor) -> Tensor:
    """How many, as a float32 scalar beside the logits: made there, a GPU does not wait for the host to send it."""
    return torch.full((), len(labels), dtype=torch.float32, device=logits.device)
