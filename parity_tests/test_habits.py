"""Whole trainings by both command lines, in float64, with what users of Keras are used to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_vgg.experiment.patience import EarlyStoppingSpec, PlateauSpec
from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec, OptimizerSpec, TrainerSpec
from lightning_vgg.images.dataset import load_dataset
from parity_tests.distance import distance
from parity_tests.mutants import plain_spec
from parity_tests.whole_run import histories

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("programs_in_this_process")]
DATA = DataSpec(source="digits", image_size=8, train_images=300, validation_fraction=0.2, batch_size=32)


def test_averaged_weights_class_weights_a_falling_rate_and_early_stopping() -> None:
    model = replace(
        plain_spec(),
        optimizer=OptimizerSpec(name="adam", learning_rate=0.03, ema=0.75),
        label_smoothing=0.1,
        reduce_on_plateau=PlateauSpec("val_acc", patience=1, factor=0.5, min_delta=0.1),
        early_stopping=EarlyStoppingSpec("val_acc", 2),
        best_by="val_loss",
    )
    data = replace(DATA, class_weight={"3": 2.0, "8": 0.5})
    ours, theirs = histories(ExperimentSpec(model=model, data=data), load_dataset(data), epochs=15)
    assert 3 <= len(ours["val_loss"]) < 15
    assert len(set(ours["learning_rate"])) > 1
    found = distance(ours, theirs)
    assert found.value < 1e-10, found


@pytest.mark.thorough
def test_accumulated_gradients_and_a_falling_rate() -> None:
    """240 images are 8 batches: two steps of 3 and one of 2."""
    model = replace(
        plain_spec(),
        optimizer=OptimizerSpec(name="sgd", learning_rate=0.1, momentum=0.75),
        reduce_on_plateau=PlateauSpec(patience=1, factor=0.5, min_delta=0.05),
    )
    experiment = ExperimentSpec(model=model, data=DATA, trainer=TrainerSpec(accumulate_grad_batches=3))
    ours, theirs = histories(experiment, load_dataset(DATA), epochs=6)
    assert len(set(ours["learning_rate"])) > 1
    found = distance(ours, theirs)
    assert found.value < 1e-10, found
