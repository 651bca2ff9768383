"""Do two arms reach the same test accuracy? An interval, a test of equivalence, and how many seeds would decide.

Equivalence is shown by two one-sided t-tests (TOST: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680): both
"the difference is -margin or less" and "it is +margin or more" must be rejected. It is not shown by a t-test that finds
no difference. How the two tests make one verdict follows Lakens 2017, Soc. Psychol. Personal. Sci. 8, 355-362.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_vgg.report.looks import ALPHA, ONLY_LOOK, Look

Verdict = Literal["equivalent", "different", "undecided"]

POWER = 0.9
"""Probability of a decision with the planned number of seeds."""
MOST_SEEDS = 10_000
"""The largest number of seeds that is planned."""

_ROUNDING = 1e-12
"""A spread of accuracies below this is rounding: they are multiples of 1/images."""


@dataclass(frozen=True)
class Difference:
    """A difference of two means, arm minus reference.

    Attributes:
        value: mean difference.
        standard_error: of the value; infinite where one seed alone leaves the spread unknown.
        freedom: degrees of freedom of the t distribution.
        deviations: standard deviations (divisor n - 1): of the differences where the arms are paired, else of either.
    """

    value: float
    standard_error: float
    freedom: float
    deviations: tuple[float, ...]

    def interval(self, level: float) -> tuple[float, float]:
        """Confidence interval of the difference at ``level``, such as 0.95."""
        from scipy import stats

        half = float(stats.t.isf((1 - level) / 2, self.freedom)) * self.standard_error
        return self.value - half, self.value + half

    def equivalence_p(self, margin: float) -> float:
        """p of the TOST: the larger of its two tests'."""
        from scipy import stats

        if self.standard_error == 0:
            return float(abs(self.value) >= margin)
        below = stats.t.sf((self.value + margin) / self.standard_error, self.freedom)
        above = stats.t.cdf((self.value - margin) / self.standard_error, self.freedom)
        return float(max(below, above))

    def verdict(self, margin: float, look: Look = ONLY_LOOK) -> Verdict:
        """equivalent: the TOST at the margin shows it, even if there is a smaller difference. different: it does not,
        and zero is outside the interval (95 %, where there is one look alone). Otherwise undecided."""
        if self.equivalence_p(margin) < look.equivalence:
            return "equivalent"
        low, high = self.interval(1 - look.difference)
        return "undecided" if low <= 0 <= high else "different"

    def posterior(self, margin: float) -> tuple[float, float, float] | None:
        """Probabilities that the true difference lies below -margin, within it, and above +margin; None for one seed.

        With a flat prior the posterior is the t distribution around the value (the Bayesian t-test of Benavoli et al.
        2017, J. Mach. Learn. Res. 18(77), for runs that do not share training images).
        """
        from scipy import stats

        if not self.deviations:
            return None
        if self.standard_error == 0:
            return float(self.value < -margin), float(abs(self.value) <= margin), float(self.value > margin)
        true = stats.t(self.freedom, self.value, self.standard_error)
        below, above = float(true.cdf(-margin)), float(true.sf(margin))
        return below, 1 - below - above, above


def estimate_difference(arm: Sequence[float], reference: Sequence[float], paired: bool) -> Difference:
    """Mean difference of two arms' accuracies.

    Paired arms: that of the seeds' differences. Otherwise the variances may differ, and the degrees of freedom are
    Welch's (1947, Biometrika 34, 28-35) and Satterthwaite's.

    Args:
        arm, reference: a value a seed; where they are paired, of the same seeds in the same order.
        paired: whether the two values of a seed come from the same batches and initial weights.
    """
    samples = [np.subtract(arm, reference)] if paired else [np.asarray(arm), np.asarray(reference)]
    value = float(np.mean(arm) - np.mean(reference))
    if min(map(len, samples)) < 2:
        return Difference(value, float("inf"), 1.0, ())
    deviations = tuple(float(sample.std(ddof=1)) for sample in samples)
    if max(deviations) < _ROUNDING:
        return Difference(value, 0.0, float(len(samples[0]) - 1), deviations)
    return Difference(value, *_standard_error(deviations, [len(sample) for sample in samples]), deviations)


def effect_size(arm: Sequence[float], reference: Sequence[float]) -> float | None:
    """Cohen's d: the difference of the means in standard deviations of a run (root mean square of both arms').

    None where a spread is unknown, or zero.
    """
    if min(len(arm), len(reference)) < 2:
        return None
    spread = float(np.sqrt((np.var(arm, ddof=1) + np.var(reference, ddof=1)) / 2))
    return float(np.mean(arm) - np.mean(reference)) / spread if spread > _ROUNDING else None


def probability_of_superiority(arm: Sequence[float], reference: Sequence[float]) -> float:
    """That a run of the arm is better than one of the reference, ties counted half: Mann and Whitney's U / (n m).

    The same as rliable's probability of improvement (Agarwal et al. 2021, arXiv 2108.13264).
    """
    from scipy import stats

    return float(stats.mannwhitneyu(arm, reference).statistic) / (len(arm) * len(reference))


def _standard_error(deviations: Sequence[float], seeds: Sequence[int]) -> tuple[float, float]:
    """Of a mean difference, and its degrees of freedom; scipy's t-tests find them for samples, not for planned ones."""
    parts = [deviation**2 / number for deviation, number in zip(deviations, seeds, strict=True)]
    freedom = sum(parts) ** 2 / sum(part**2 / (number - 1) for part, number in zip(parts, seeds, strict=True))
    return sum(parts) ** 0.5, freedom


def equivalence_power(shift: float, margin: float, deviations: Sequence[float], seeds: int) -> float:
    """Probability that the TOST shows equivalence.

    The probability given the variance that the seeds happen to show, averaged over the chi-squared distribution of
    that variance (Phillips 1990, J. Pharmacokinet. Biopharm. 18, 137-144, writes the same as Owen's Q).

    Args:
        shift: true difference of the means.
        margin: of equivalence.
        deviations: true standard deviations, as Difference.deviations.
        seeds: of each arm.
    """
    from scipy import stats

    standard_error, freedom = _standard_error(deviations, [seeds] * len(deviations))
    quantiles = (np.arange(2000) + 0.5) / 2000
    seen = np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)  # standard error as it shows, over the true one
    reach = margin / standard_error - stats.t.ppf(1 - ALPHA, freedom) * seen
    centre = shift / standard_error
    return float(np.maximum(stats.norm.cdf(reach - centre) - stats.norm.cdf(-reach - centre), 0).mean())


def difference_power(shift: float, deviations: Sequence[float], seeds: int) -> float:
    """Probability that zero lies outside the 95 % interval, on the right side of it, by the noncentral t distribution.

    Arguments as above.
    """
    from scipy import stats

    standard_error, freedom = _standard_error(deviations, [seeds] * len(deviations))
    critical = stats.t.ppf(1 - ALPHA / 2, freedom)
    return float(stats.nct.sf(critical, freedom, abs(shift) / standard_error))


def seeds_needed(difference: Difference, margin: float) -> int | None:
    """Seeds of each arm with which a decision has the probability POWER, if difference and spread are as observed.

    The decision is whichever needs fewer seeds: equivalent where the observed difference is small, else different.

    Returns:
        the number; None where one seed leaves the spread unknown, or more than MOST_SEEDS would be needed.
    """
    if not difference.deviations:
        return None

    def decides(seeds: int) -> bool:
        return (
            equivalence_power(difference.value, margin, difference.deviations, seeds) >= POWER
            or difference_power(difference.value, difference.deviations, seeds) >= POWER
        )

    numbers = range(2, MOST_SEEDS + 1)
    found = bisect.bisect_left(numbers, True, key=decides)
    return numbers[found] if found < len(numbers) else None
