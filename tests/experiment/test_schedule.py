"""The table of learning rates: golden values by hand, and torch's own schedulers where they exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from lightning_vgg.experiment.schedule import rate_factors
from lightning_vgg.experiment.specs import ScheduleSpec

COS_45 = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleSpec("constant"), [1, 1, 1, 1]),
        (ScheduleSpec("constant", warmup=0.5), [1 / 3, 2 / 3, 1, 1]),
        (ScheduleSpec("step"), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (ScheduleSpec("step", milestones=[0.75, 0.5], factor=0.5), [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        (ScheduleSpec("step", milestones=[]), [1, 1, 1]),
        (ScheduleSpec("step", milestones=[0.5], warmup=0.25), [1 / 3, 2 / 3, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        (ScheduleSpec("cosine", factor=0.0), [1, (1 + COS_45) / 2, 0.5, (1 - COS_45) / 2]),
        (ScheduleSpec("cosine", factor=0.5), [1, 0.5 + (1 + COS_45) / 4, 0.75, 0.5 + (1 - COS_45) / 4]),
        (ScheduleSpec("cosine", warmup=0.25, factor=0.0), [0.5, 1, 0.75, 0.25]),
        (ScheduleSpec("linear", factor=0.2), [1, 0.8, 0.6, 0.4]),
        (ScheduleSpec("linear", warmup=0.5, factor=0.0), [1 / 3, 2 / 3, 1, 0.5]),
        (ScheduleSpec("one_cycle", warmup=0.5, factor=0.0), [0.25, 0.75, 1, 0.5]),
        (ScheduleSpec("one_cycle", warmup=0.5, factor=0.2), [0.25, 0.75, 1, 0.6]),
        (ScheduleSpec("one_cycle", warmup=0.0, factor=0.0), [1, 0.75, 0.25]),
    ],
)
def test_golden_values(schedule: ScheduleSpec, expected: list[float]) -> None:
    factors = rate_factors(schedule, len(expected))
    assert factors.dtype == np.float64
    assert_allclose(factors, expected, rtol=1e-14, atol=1e-16)


schedules = st.builds(
    ScheduleSpec,
    st.sampled_from(["constant", "step", "linear", "cosine", "one_cycle"]),
    warmup=st.floats(0, 1, exclude_max=True),
    milestones=st.lists(st.floats(0.01, 0.99), max_size=4),
    factor=st.floats(0, 1),
)


@given(schedules, st.integers(1, 300))
def test_bounds_and_monotonicity(schedule: ScheduleSpec, total_steps: int) -> None:
    factors = rate_factors(schedule, total_steps)
    assert factors.shape == (total_steps,)
    assert ((factors >= 0) & (factors <= 1)).all()
    warmup_steps = round(schedule.warmup * total_steps)
    falling = np.diff(factors[warmup_steps:])
    assert (falling <= 1e-15).all()
    if schedule.name != "step":  # whose milestones may lie in the warm-up
        assert (np.diff(factors[: warmup_steps + 1]) > 0).all()
        if warmup_steps < total_steps:
            assert factors[warmup_steps] == 1
    if warmup_steps:
        assert factors[0] <= 0.5  # "near 0": the first of at least two steps up
    if schedule.name in ("linear", "cosine", "one_cycle"):
        assert (factors[warmup_steps:] >= schedule.factor * (1 - 1e-15)).all()


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_the_last_step_comes_near_the_factor(name: str) -> None:
    """One step before the cosine's end: (1 - factor) · (1 - cos(π/n)) / 2 above it."""
    factors = rate_factors(ScheduleSpec(name, factor=0.1), 200)  # type: ignore[arg-type]
    assert factors[-1] == pytest.approx(0.1 + 0.9 * (1 - math.cos(math.pi / 200)) / 2, rel=1e-12)
    assert factors[-1] < 0.1 + 1e-4


def rates_of(scheduler: type[LRScheduler], total_steps: int, **arguments: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = scheduler(optimizer, **arguments)  # type: ignore[arg-type]
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("total_steps", [1, 7, 100])
@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_cosine_is_that_of_torch(total_steps: int, factor: float) -> None:
    expected = rates_of(CosineAnnealingLR, total_steps, T_max=total_steps, eta_min=factor)
    assert_allclose(rate_factors(ScheduleSpec("cosine", factor=factor), total_steps), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("total_steps", "steps"), [(8, [4, 6]), (100, [50, 75]), (10, [5, 8]), (7, [4, 5])])
def test_step_is_that_of_torch(total_steps: int, steps: list[int]) -> None:
    """Milestones between two steps go to the nearest step: 0.5 of 7 to 4, 0.75 of 10 to 8 (halves to the even)."""
    expected = rates_of(MultiStepLR, total_steps, milestones=steps, gamma=0.1)
    assert_allclose(rate_factors(ScheduleSpec("step"), total_steps), expected, rtol=1e-13)
