"""The verdicts' statistics against scipy, statsmodels, and simulated comparisons."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from lightning_vgg.report.looks import ALPHA
from lightning_vgg.report.statistics import (
    Difference,
    difference_power,
    effect_size,
    equivalence_power,
    estimate_difference,
    probability_of_superiority,
    seeds_needed,
)

with warnings.catch_warnings():  # statsmodels 0.15 calls what its own dependencies deprecate
    warnings.simplefilter("ignore")
    from statsmodels.stats.power import TTestIndPower, TTestPower
    from statsmodels.stats.weightstats import ttost_ind, ttost_paired

SAMPLES = [
    ([0.931, 0.928, 0.935, 0.930, 0.933], [0.929, 0.931, 0.934, 0.927, 0.930]),
    ([0.76, 0.78], [0.75, 0.74]),
    (np.random.default_rng(1).normal(0.9, 0.004, 12), np.random.default_rng(2).normal(0.903, 0.001, 12)),
]


@pytest.mark.parametrize(("arm", "reference"), SAMPLES)
@pytest.mark.parametrize("margin", [0.001, 0.005, 0.02])
def test_paired_arms_agree_with_scipy_and_statsmodels(arm: list[float], reference: list[float], margin: float) -> None:
    difference = estimate_difference(arm, reference, paired=True)
    golden = stats.ttest_rel(arm, reference)
    for level in (0.9, 0.95):
        assert difference.interval(level) == pytest.approx(tuple(golden.confidence_interval(level)), abs=1e-12)
    p_value = ttost_paired(np.asarray(arm), np.asarray(reference), -margin, margin)[0]
    assert difference.equivalence_p(margin) == pytest.approx(p_value, rel=1e-9)


@pytest.mark.parametrize(
    ("arm", "reference"), [*SAMPLES, ([0.91, 0.93, 0.92], [0.9, 0.905, 0.91, 0.908, 0.912])], ids=str
)
@pytest.mark.parametrize("margin", [0.001, 0.005, 0.02])
def test_independent_arms_agree_with_scipy_and_statsmodels(
    arm: list[float], reference: list[float], margin: float
) -> None:
    difference = estimate_difference(arm, reference, paired=False)
    golden = stats.ttest_ind(arm, reference, equal_var=False)
    for level in (0.9, 0.95):
        assert difference.interval(level) == pytest.approx(tuple(golden.confidence_interval(level)), abs=1e-12)
    p_value = ttost_ind(np.asarray(arm), np.asarray(reference), -margin, margin, usevar="unequal")[0]
    assert difference.equivalence_p(margin) == pytest.approx(p_value, rel=1e-9)


@pytest.mark.parametrize(
    ("arm", "paired", "verdict"),
    [
        ([0.9002, 0.9099, 0.9201, 0.9298], True, "equivalent"),
        ([0.9011, 0.9110, 0.9209, 0.9310], True, "equivalent"),  # a difference is there, and it is small
        ([0.93, 0.94, 0.95, 0.96], True, "different"),
        ([0.9065, 0.9175, 0.9271, 0.9373], True, "different"),  # below the margin or not: that is open
        ([0.9039, 0.9221, 0.9239, 0.9421], True, "different"),  # the 95 % interval just leaves out zero
        ([0.9035, 0.9225, 0.9235, 0.9425], True, "undecided"),  # and just not
        ([0.89, 0.92, 0.92, 0.93], True, "undecided"),
        ([0.9002, 0.9099, 0.9201, 0.9298], False, "undecided"),  # what pairs show, independent samples do not
        ([0.97, 0.98, 0.99, 1.0], False, "different"),
    ],
)
def test_verdicts(arm: list[float], paired: bool, verdict: str) -> None:
    reference = [0.90, 0.91, 0.92, 0.93]
    difference = estimate_difference(arm, reference, paired)
    assert difference.verdict(0.0071) == verdict
    assert (seeds_needed(difference, 0.0071) or math.inf) > len(arm) or verdict != "undecided"


@pytest.mark.parametrize("paired", [True, False])
def test_one_seed_decides_nothing(paired: bool) -> None:
    difference = estimate_difference([0.9], [0.9], paired)
    assert difference.verdict(0.01) == "undecided"
    assert difference.interval(0.95) == (-math.inf, math.inf)
    assert seeds_needed(difference, 0.01) is None


def test_arms_that_are_equal_seed_by_seed_are_equivalent_and_without_spread() -> None:
    values = [0.9312, 0.9277, 0.9301]
    difference = estimate_difference(values, values, paired=True)
    assert difference.verdict(1e-6) == "equivalent"
    assert difference.interval(0.95) == (0.0, 0.0)
    shifted = estimate_difference([value + 0.02 for value in values], values, paired=True)  # rounding is no spread
    assert shifted.standard_error == 0
    assert shifted.verdict(0.01) == "different"
    assert shifted.verdict(0.03) == "equivalent"


@pytest.mark.parametrize(("margin", "seeds"), [(0.5, 5), (0.3, 11), (0.2, 23)])
def test_seeds_for_a_deviation_of_two_tenths_of_a_point(margin: float, seeds: int) -> None:
    """The figures of a simulation by others: equal means, alpha .05, power .9."""
    assert seeds_needed(Difference(0.0, 0.1, 8.0, (0.2, 0.2)), margin) == seeds
    assert equivalence_power(0.0, margin, (0.2, 0.2), seeds - 1) < 0.9


@pytest.mark.parametrize("seeds", [3, 8, 40])
@pytest.mark.parametrize("shift", [0.8, 1.5, -1.5])
def test_power_of_the_t_test_agrees_with_statsmodels(shift: float, seeds: int) -> None:
    right_side = {"alpha": ALPHA / 2, "alternative": "larger"}
    paired = TTestPower().power(abs(shift), seeds, **right_side)
    assert difference_power(shift, (1.0,), seeds) == pytest.approx(paired, rel=1e-9)
    independent = TTestIndPower().power(abs(shift), seeds, **right_side)
    assert difference_power(shift, (1.0, 1.0), seeds) == pytest.approx(independent, rel=1e-9)


def test_a_hopeless_comparison_has_no_number_of_seeds() -> None:
    assert seeds_needed(Difference(0.01, 0.1, 4.0, (0.2,)), 0.01) == pytest.approx(4205, rel=0.01)
    assert seeds_needed(Difference(0.001, 0.1, 4.0, (0.2,)), 0.001) is None


TIMES = 1500


def shares_of_verdicts(
    shift: float, margin: float, deviations: tuple[float, float], seeds: int, paired: bool
) -> dict[str, float]:
    """How often each verdict is given for accuracies drawn from normal distributions, ``shift`` apart."""
    chance = np.random.default_rng(0)
    times = TIMES
    common = chance.normal(93, 1, (times, seeds)) if paired else np.full((times, seeds), 93.0)
    arms = shift + common + chance.normal(0, deviations[0], (times, seeds))
    references = common + chance.normal(0, deviations[1], (times, seeds))
    found = [
        estimate_difference(arm, reference, paired).verdict(margin)
        for arm, reference in zip(arms, references, strict=True)
    ]
    return {verdict: found.count(verdict) / times for verdict in ("equivalent", "different", "undecided")}


def within_chance(share: float, probability: float) -> bool:
    """Whether a share of TIMES lies within four standard errors."""
    return abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / TIMES)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("seeds", "margin"), [(5, 0.5), (11, 0.3)])
def test_equivalence_is_claimed_wrongly_in_one_case_of_twenty(seeds: int, margin: float, paired: bool) -> None:
    """At the margin itself, where the error is the most frequent."""
    shares = shares_of_verdicts(margin, margin, (0.2, 0.2), seeds, paired)
    assert within_chance(shares["equivalent"], ALPHA), shares
    beyond = shares_of_verdicts(-1.3 * margin, margin, (0.2, 0.2), seeds, paired)
    assert beyond["equivalent"] < ALPHA / 2


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("seeds", "margin"), [(5, 0.5), (11, 0.3)])
def test_equal_arms_are_found_equivalent_as_often_as_planned(seeds: int, margin: float, paired: bool) -> None:
    shares = shares_of_verdicts(0.0, margin, (0.2, 0.2), seeds, paired)
    deviations = (math.hypot(0.2, 0.2),) if paired else (0.2, 0.2)
    # Pairs of what is independent in truth: the same spread, fewer degrees of freedom.
    planned = equivalence_power(0.0, margin, deviations, seeds)
    assert within_chance(shares["equivalent"], planned), (shares, planned)
    assert shares["different"] < ALPHA
    assert paired or planned > 0.9


def test_a_small_margin_never_makes_equal_arms_different() -> None:
    shares = shares_of_verdicts(0.0, 0.001, (0.2, 0.3), 4, paired=False)
    assert shares["equivalent"] == 0
    assert shares["different"] < 1.3 * ALPHA


def test_effect_size_superiority_and_posterior_by_hand() -> None:
    arm, reference = [0.93, 0.95, 0.94], [0.92, 0.93, 0.91]
    assert effect_size(arm, reference) == pytest.approx(0.02 / 0.01)
    assert probability_of_superiority(arm, reference) == pytest.approx(8.5 / 9)
    assert effect_size([0.9, 0.9], [0.8, 0.8]) is None and effect_size([0.9], [0.8]) is None
    difference = estimate_difference(arm, reference, paired=True)
    below, within, above = difference.posterior(0.005) or (0.0, 0.0, 0.0)
    assert below + within + above == pytest.approx(1)
    # With a flat prior the posterior beyond the margin is the p value of the one-sided test at it.
    assert above == pytest.approx(
        1 - stats.ttest_1samp(np.subtract(arm, reference), 0.005, alternative="greater").pvalue
    )
    assert estimate_difference([0.9], [0.8], paired=True).posterior(0.01) is None
    assert Difference(0.02, 0.0, 2.0, (0.0,)).posterior(0.01) == (0.0, 0.0, 1.0)
