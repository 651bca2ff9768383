"""Scores from the logits of the test images: errors by class, calibration, and agreement of two runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15
"""Of confidence: as in Guo et al. 2017, On Calibration of Modern Neural Networks."""


@dataclass(frozen=True)
class Reliability:
    """Test images binned by confidence, the probability of the predicted class; bins are equally wide.

    Attributes:
        counts: int64 (BINS,), images.
        confidence, accuracy: float64 (BINS,), means over a bin's images; NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """ECE: mean of |accuracy - confidence| over the images' bins (Naeini et al. 2015; Guo et al. 2017, eq. 3)."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(np.average(gaps, weights=self.counts))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64, (N, classes)."""
    from scipy.special import softmax

    return softmax(logits.astype(np.float64), axis=1)


def reliability(labels: np.ndarray, logits: np.ndarray) -> Reliability:
    """Confidence against accuracy; labels int (N,), logits (N, classes).

    scikit-learn's calibration_curve knows two classes only, and torchmetrics needs torch.
    """
    from scipy.stats import binned_statistic

    likely = probabilities(logits)
    confidence, right = likely.max(1), likely.argmax(1) == labels
    means, _, bins = binned_statistic(confidence, [confidence, right], "mean", BINS, (0, 1))
    return Reliability(np.bincount(bins - 1, minlength=BINS), *means)


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats; scikit-learn's log_loss would clip the probabilities."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def confusion(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """int64 (classes, classes): images of the row's class that were taken for the column's."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, logits.argmax(1), labels=range(logits.shape[1]))


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, float64 (classes,), from its confusion matrix; NaN where no image is
    there to divide by.
    """
    right, true, predicted = np.diag(matrix).astype(np.float64), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        return {"precision": right / predicted, "recall": right / true, "f1": 2 * right / (true + predicted)}


def agreement(logits: np.ndarray, other: np.ndarray) -> float:
    """Share of the images for which two runs predict the same class: 1 minus their churn.

    Churn as in Milani Fard et al. 2016, Launch and Iterate: Reducing Prediction Churn.
    """
    return float((logits.argmax(1) == other.argmax(1)).mean())
