"""A weight for each class, as scikit-learn balances them or as the user gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec
from lightning_vgg.images.class_weights import class_weights
from lightning_vgg.images.dataset import load_dataset

NAMES = ("cat", "dog", "7", "ox")


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.random.default_rng(0).choice(4, 1000, p=[0.6, 0.25, 0.1, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights("balanced", labels, NAMES), expected, rtol=1e-15)


def test_they_are_those_of_the_training_images() -> None:
    dataset = load_dataset(DataSpec("digits", image_size=8, class_weight="balanced"))
    assert dataset.class_weights is not None
    counts = np.bincount(dataset.train.labels)
    np.testing.assert_allclose(dataset.class_weights * counts, len(dataset.train.labels) / 10)
    assert dataset.describe()["class_weights"] == dataset.class_weights.tolist()


def test_classes_go_by_name_or_by_number_and_others_have_the_weight_1() -> None:
    """A name that looks like a number is a name."""
    given: dict[str | int, float] = {"cat": 2.0, 1: 3.0, "7": 4.0}
    np.testing.assert_array_equal(class_weights(given, np.arange(4), NAMES), [2.0, 3.0, 4.0, 1.0])


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"cats": 2.0}, "there is no class 'cats'; did you mean 'cat'"),
        ({"xyz": 2.0}, "there is no class 'xyz'; there are cat, dog, 7, ox"),
        ({4: 2.0}, "there is no class '4'"),
        ({-1: 2.0}, "there is no class '-1'"),
        ({"dog": 2.0, 1: 3.0}, "dog and 1 are the same class, 'dog'"),
        ("balanced", "balanced needs training images of every class, and there are none of 'ox'"),
    ],
)
def test_what_is_no_class_is_named(setting: Any, complaint: str) -> None:
    with pytest.raises(ExperimentError, match=r"data.class_weight: ") as caught:
        class_weights(setting, np.array([0, 1, 1, 2]), NAMES)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_0(weight: float) -> None:
    with pytest.raises(ExperimentError, match=r"data.class_weight must be above 0, not cat: "):
        DataSpec(class_weight={"cat": weight, "dog": 1.0})


def test_mixed_images_have_no_class_weight() -> None:
    spec = DataSpec("digits", class_weight="balanced", augmentation=AugmentationSpec(mixup=0.2))
    with pytest.raises(ExperimentError, match="leave out mixup and cutmix"):
        load_dataset(spec)
