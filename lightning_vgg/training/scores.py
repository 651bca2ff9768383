"""What is measured of the images of an epoch, added up batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Scores(Metric):
    """Mean loss, accuracy and confusion matrix of all images since the last reset, over all processes.

    torchmetrics 1.9's own will not do. Its means of losses let through NaNs, as they must be, only where MeanMetric
    forgets its weights, and on its way through a trainer an aggregator is set back to float32. Its confusion matrix
    counts by torch.bincount, for which a GPU is waited for in every step.

    Attributes:
        loss_sum: sum of the losses, float64 whatever the precision of the training; see `sum_losses_in`.
        confusion: of the row's class, taken for the column's, int64 (classes, classes).
    """

    loss_sum: Tensor
    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.sum_losses_in(torch.float64)
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def sum_losses_in(self, dtype: torch.dtype) -> None:
        """From now on; the sum begins with zero."""
        self.add_state("loss_sum", torch.tensor(0.0, dtype=dtype), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, mean_loss: Tensor) -> None:
        """Add a batch: logits (B, classes), labels int64 (B,), its mean loss ()."""
        if not len(labels):  # a process's share of a small last batch: its loss is NaN
            return
        self.loss_sum += mean_loss.to(self.loss_sum.dtype) * len(labels)
        cells = labels * len(self.confusion) + logits.argmax(1)
        self.confusion.view(-1).scatter_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and accuracy, scalars, and the confusion matrix."""
        matrix = self.confusion.to(self.loss_sum.dtype)
        images = matrix.sum()
        return self.loss_sum / images, matrix.trace() / images, self.confusion

    def sums(self) -> dict[str, Tensor]:
        """What has been added up since the last reset, by all processes together; all of them must ask."""
        with self.sync_context():
            return {name: torch.as_tensor(value).cpu().clone() for name, value in self.metric_state.items()}

    def restore(self, sums: dict[str, Tensor]) -> None:
        if sums.keys() != self.metric_state.keys():  # an older checkpoint: the mean is over the rest of its epoch
            return
        for name, value in sums.items():
            setattr(self, name, value.to(self.device))
