"""Looks at the seeds: the levels against published ones, and simulated comparisons that stop when they are decided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_vgg.report.looks import ALPHA, ONLY_LOOK, look_at, looks_up_to, spent_levels
from lightning_vgg.report.statistics import estimate_difference

TIMES = 1000


def test_boundaries_are_those_of_the_literature() -> None:
    """Five looks, two-sided 5 %: Lan and DeMets's table, as the R packages ldbounds and gsDesign compute them."""
    bounds = stats.norm.isf(spent_levels((1, 2, 3, 4, 5), 0.025))
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)


def test_looks_are_spread_over_the_seeds_and_the_last_one_is_nearly_a_usual_test() -> None:
    assert looks_up_to(20) == [5, 8, 12, 16, 20]
    assert looks_up_to(10) == [3, 4, 6, 8, 10]
    assert looks_up_to(2) == [2]
    levels = [look_at(seeds, looks_up_to(20)) for seeds in (5, 8, 12, 16, 20)]
    assert [look.equivalence for look in levels] == sorted(look.equivalence for look in levels)
    assert 0.8 * ALPHA < levels[-1].equivalence < ALPHA and 0.8 * ALPHA < levels[-1].difference < ALPHA
    assert look_at(14, looks_up_to(20)) == levels[2]  # stopped on the way to 16
    assert look_at(3, looks_up_to(20)) == levels[0]
    assert look_at(2, [2]).equivalence == pytest.approx(ALPHA)
    assert look_at(7, []) == ONLY_LOOK


def sequential(shift: float, margin: float, most: int) -> tuple[dict[str, float], float]:
    """Share of each verdict, and the mean number of seeds, where a seed's difference has deviation 1."""
    chance, looks = np.random.default_rng(0), looks_up_to(most)
    verdicts, seeds = [], []
    for differences in chance.normal(shift, 1, (TIMES, most)):
        for look in looks:
            part = differences[:look]
            verdict = estimate_difference(part, np.zeros(look), paired=True).verdict(margin, look_at(look, looks))
            if verdict != "undecided":
                break
        verdicts.append(verdict)
        seeds.append(look)
    return {name: verdicts.count(name) / TIMES for name in ("equivalent", "different", "undecided")}, np.mean(seeds)


def test_looking_again_and_again_is_wrong_no_more_often_than_one_look() -> None:
    """Equivalent on the margin, and different at zero, where either error is the most frequent: 5 % at most."""
    allowed = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / TIMES)
    on_the_margin, seeds = sequential(shift=1.2, margin=1.2, most=20)
    assert 0.5 * ALPHA < on_the_margin["equivalent"] < allowed, on_the_margin
    equal, _ = sequential(shift=0.0, margin=0.05, most=20)  # a margin at which nothing can be shown
    assert equal["equivalent"] == 0 and 0.5 * ALPHA < equal["different"] < allowed, equal
    assert seeds < 14  # most of them are found to be different


def test_what_is_clear_is_decided_early() -> None:
    equal, seeds = sequential(shift=0.0, margin=1.2, most=20)
    assert equal["equivalent"] > 0.95 and seeds < 13, (equal, seeds)
    apart, fewer = sequential(shift=5.0, margin=1.2, most=20)
    assert apart["different"] == 1 and fewer < 9, (apart, fewer)
