"""What the logits say, against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, precision_recall_fscore_support
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_vgg.runs.scores import (
    BINS,
    agreement,
    class_rows,
    class_scores,
    confusion,
    cross_entropy,
    macro_scores,
    probabilities,
    reliability,
)


@pytest.fixture(scope="module", params=[0.5, 3.0, 30.0], ids=["unsure", "normal", "sure"])
def predictions(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(3)
    labels = chance.integers(0, 7, 2000)
    logits = chance.normal(0, 1, (2000, 7)) + 1.2 * np.eye(7)[labels]
    return labels, (request.param * logits).astype(np.float32)


def test_calibration_error_is_that_of_torchmetrics(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = predictions
    golden = MulticlassCalibrationError(num_classes=7, n_bins=BINS, norm="l1")
    golden.update(torch.from_numpy(probabilities(logits)), torch.from_numpy(labels))
    found = reliability(labels, logits)
    assert found.expected_calibration_error == pytest.approx(float(golden.compute()), abs=1e-6)
    assert found.counts.sum() == len(labels)


def test_cross_entropy_and_confusions_are_those_of_others(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = predictions
    # scikit-learn clips probabilities, which cross_entropy does not; so compare where none is that small.
    sound = probabilities(logits)[np.arange(len(labels)), labels] > 1e-6
    expected = log_loss(labels[sound], probabilities(logits)[sound], labels=range(7))
    assert cross_entropy(labels[sound], logits[sound]) == pytest.approx(expected, rel=1e-6)
    counted = multiclass_confusion_matrix(torch.from_numpy(logits), torch.from_numpy(labels), num_classes=7)
    np.testing.assert_array_equal(confusion(labels, logits), counted)


def test_confusion_keeps_a_class_without_images() -> None:
    logits = np.array([[2.0, 0, 0], [2, 0, 0], [0, 0, 2]])
    assert confusion(np.array([0, 2, 2]), logits).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]


def unbalanced(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of 400 images of five classes, few of the last ones."""
    chance = np.random.default_rng(5)
    labels = chance.choice(5, 400, p=[0.6, 0.25, 0.1, 0.03, 0.02])
    predicted = np.where(chance.random(400) < 0.6, labels, chance.integers(0, 5, 400))
    match kind:
        case "without images of a class":
            labels[labels == 4] = 0
        case "never predicted":
            predicted[predicted == 4] = 0
        case "neither":
            labels[labels == 4], predicted[predicted == 4] = 0, 0
    return labels, predicted


@pytest.mark.parametrize("kind", ["all there", "without images of a class", "never predicted", "neither"])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_over_the_classes_are_those_of_scikit_learn(kind: str) -> None:
    labels, predicted = unbalanced(kind)
    matrix = confusion(labels, np.eye(5)[predicted])
    found = macro_scores(matrix)
    assert found["balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, predicted), rel=1e-14)
    golden = f1_score(labels, predicted, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(golden, rel=1e-14)
    *scores, images = precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=np.nan)
    for ours, theirs in zip(class_scores(matrix).values(), scores, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    for row, *theirs in zip(class_rows(matrix, "abcde"), "abcde", *scores, images, strict=True):
        assert row == [None if value != value else value for value in theirs]


def test_huge_logits_give_no_infinity() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    assert cross_entropy(np.array([0, 1]), logits) == pytest.approx(1e4)
    assert reliability(np.array([0, 1]), logits).expected_calibration_error == pytest.approx(0.5)


def test_agreement_counts_equal_predictions_right_or_wrong() -> None:
    one = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    other = np.array([[3.0, 0], [0, 9], [5, 1], [1, 0]])
    assert agreement(one, other) == 0.75
