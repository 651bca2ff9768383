"""The scale of the pixels: of the training images, of the settings, or of pretrained weights."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.batches import Normalization, normalize
from lightning_vgg.images.dataset import load_dataset


def test_mean_and_deviation_are_those_of_the_settings_or_of_the_training_images() -> None:
    measured = load_dataset(DataSpec("digits", image_size=8))
    pixels = measured.train.images / 1.0
    np.testing.assert_allclose(measured.normalization.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(measured.normalization.std, pixels.std((0, 1, 2)))
    given = load_dataset(DataSpec("digits", image_size=8, mean=[0, 127.5, 255], std=[255, 127.5, 1]))
    batch = normalize(np.full((1, 1, 1, 3), 255, np.uint8), given.normalization, np.float64)
    np.testing.assert_allclose(batch.ravel(), [1, 1, 0])


def test_pretrained_weights_have_their_own() -> None:
    theirs = Normalization((1.0, 2.0, 3.0), (1.0, 1.0, 1.0))
    assert load_dataset(DataSpec("digits", image_size=8), theirs).normalization == theirs
    with pytest.raises(ExperimentError, match=r"data.mean and data.std do not go with model.backbone"):
        load_dataset(DataSpec("digits", image_size=8, mean=[0, 0, 0], std=[1, 1, 1]), theirs)


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ([0.0, 0.0, 0.0], None, "belong together"),
        ([0.0], [1.0], "three numbers"),
        ([0.0, 0.0, 0.0], [1.0, 0.0, 1.0], "data.std must be above 0"),
    ],
)
def test_impossible_scales_are_refused(mean: list[float] | None, std: list[float] | None, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        DataSpec(mean=mean, std=std)
