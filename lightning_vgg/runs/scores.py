"""Scores from confusion matrices and from logits: by class and over the classes, calibration, agreement of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 15
"""Of confidence: as in Guo et al. 2017, On Calibration of Modern Neural Networks."""

CLASS_COLUMNS = ("class", "precision", "recall", "f1", "images")
"""Of a table by class. Scores: fractions. images: that belong to the class."""


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
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, float64 (classes,), from its confusion matrix; NaN where no image is
    there to divide by.
    """
    right, true, predicted = np.diag(matrix).astype(np.float64), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        return {"precision": right / predicted, "recall": right / true, "f1": 2 * right / (true + predicted)}


def class_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[list[Any]]:
    """A row of CLASS_COLUMNS for each class; None where there is nothing to divide by."""
    columns = [[None if np.isnan(value) else float(value) for value in of] for of in class_scores(matrix).values()]
    return [list(row) for row in zip(class_names, *columns, matrix.sum(1).tolist(), strict=True)]


def macro_scores(matrix: np.ndarray) -> dict[str, float]:
    """``balanced_acc`` and ``macro_f1`` from a confusion matrix: mean recall, and mean F1, of the classes.

    As scikit-learn's balanced_accuracy_score and f1_score(average="macro", zero_division=0) have them: a class without
    images has no recall, and one that is neither there nor predicted has no F1. Such a class is left out of the mean.

    >>> macro_scores(np.array([[8, 0, 0], [1, 1, 0], [0, 0, 0]]))
    {'balanced_acc': 0.75, 'macro_f1': 0.803921568627451}
    """
    scores = class_scores(matrix)
    return {"balanced_acc": float(np.nanmean(scores["recall"])), "macro_f1": float(np.nanmean(scores["f1"]))}


def agreement(logits: np.ndarray, other: np.ndarray) -> float:
    """Share of the images for which two runs predict the same class: 1 minus their churn.

    Churn as in Milani Fard et al. 2016, Launch and Iterate: Reducing Prediction Churn.
    """
    return float((logits.argmax(1) == other.argmax(1)).mean())
