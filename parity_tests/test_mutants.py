"""The ladder can fail: each planted fault is caught by the rung that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec, ModelSpec, TrainerSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.dataset import Dataset, Split, load_dataset
from parity_tests import ladder
from parity_tests.ladder import Ladder, Rung, failed
from parity_tests.mutants import MUTANTS, Climb, Mutant, plain_spec
from parity_tests.pair import Precision
from parity_tests.transfer_ladder import ladder_of

pytestmark = pytest.mark.slow
DATA = DataSpec(source="digits", image_size=8, train_images=300, eval_batch_size=64)


def every_third(number: int) -> tuple[pytest.MarkDecorator, ...]:
    """The marks of a test: ``make test`` has time for every third of them, ``make mutants`` for all."""
    return () if number % 3 == 0 else (pytest.mark.thorough,)


@cache
def tinted_digits(class_weights: tuple[float, ...] | None = None) -> Dataset:
    """In grey images swapped channels would not show."""
    weights = None if class_weights is None else np.array(class_weights)
    grey = load_dataset(DATA)
    train, val, test = (
        Split((part.images * np.array([1.0, 0.8, 0.5])).astype(np.uint8), part.labels)
        for part in (grey.train, grey.val, grey.test)
    )
    scale = Normalization.of(train.images)
    return replace(grey, train=train, val=val, test=test, normalization=scale, class_weights=weights)


def ladder_for(mutant: Mutant, spec: ModelSpec) -> Ladder:
    trainer = TrainerSpec(accumulate_grad_batches=mutant.accumulated)
    return ladder_of(ExperimentSpec(model=spec, data=DATA, trainer=trainer), tinted_digits(mutant.class_weights))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault shows in twelve steps as in the ladder's fifty."""
    monkeypatch.setattr(ladder, "STEPS", 12)


Failures = Callable[[Mutant, Precision], list[Rung]]


@pytest.fixture(scope="module")
def failures_without_fault() -> Failures:
    """The rungs of a climb that fail; each is climbed once for an experiment, though several mutants share it."""
    found: dict[tuple[Climb, str, Precision], list[Rung]] = {}

    def failures(mutant: Mutant, precision: Precision) -> list[Rung]:
        spec = mutant.spec(plain_spec())
        key = (mutant.climb, repr((spec, mutant.class_weights, mutant.accumulated)), precision)
        if key not in found:
            rungs = [*mutant.climb(ladder_for(mutant, spec), precision)]
            assert all(isinstance(rung, Rung) for rung in rungs)
            found[key] = failed(rungs)
        return found[key]

    return failures


@pytest.mark.parametrize(
    ("mutant", "precision"),
    [pytest.param(mutant, "float64", id=f"{mutant.name}, float64") for mutant in MUTANTS]
    + [
        pytest.param(mutant, "float32", id=f"{mutant.name}, float32", marks=every_third(number))
        for number, mutant in enumerate(mutant for mutant in MUTANTS if mutant.float32)
    ],
)
def test_planted_fault_is_caught_and_without_it_the_rungs_pass(
    mutant: Mutant, precision: Precision, failures_without_fault: Failures
) -> None:
    spec = mutant.spec(plain_spec())
    assert failures_without_fault(mutant, precision) == []
    wrong = replace(spec, semantics_except=[*spec.semantics_except, *mutant.switches])
    with mutant.plant():
        rungs = mutant.climb(ladder_for(mutant, wrong), precision)
        assert failed(rungs), "no rung catches it"
