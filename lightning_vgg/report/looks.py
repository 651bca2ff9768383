"""How many seeds are trained before anything is looked at, and how strict each look has to be.

Who looks at the seeds again and again, and stops when a test says yes, is wrong more often than the test says. So the
looks are fixed beforehand, and the error that the whole comparison may make is spent over them: little while there are
few seeds, most of it at the end, by Lan and DeMets's spending function (1983, Biometrika 70, 659-663) that comes close
to the boundaries of O'Brien and Fleming (1979, Biometrics 35, 549-556). Intervals at a look's levels are repeated
confidence intervals (Jennison and Turnbull 1989, J. R. Stat. Soc. B 51, 305-361): they hold however the stop came
about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

ALPHA = 0.05
"""How often, at most, each verdict is given wrongly."""
FEWEST = 3
"""Seeds at the first look; from fewer no spread can be told."""
SHARES = (0.25, 0.4, 0.6, 0.8, 1.0)
"""Of the most seeds, at the looks."""


@dataclass(frozen=True)
class Look:
    """When the seeds are looked at, and how.

    Attributes:
        equivalence: level of each of the two one-sided tests that show equivalence.
        difference: level of the two-sided test that shows a difference.
    """

    equivalence: float = ALPHA
    difference: float = ALPHA


ONLY_LOOK = Look()
"""Of a comparison whose number of seeds is fixed."""


def looks_up_to(most: int) -> list[int]:
    """Numbers of seeds, in rising order; the last one is ``most``."""
    return sorted({min(most, max(FEWEST, round(share * most))) for share in SHARES})


def look_at(seeds: int, looks: Sequence[int]) -> Look:
    """How strict a look at so many seeds has to be.

    Args:
        seeds: trained in every arm. Between two looks the levels of the earlier one hold, which are stricter; before
            the first one, those of the first.
        looks: numbers of seeds, rising; none for a number of seeds that is fixed.
    """
    if not looks:
        return ONLY_LOOK
    done = max(1, sum(look <= seeds for look in looks))
    equivalence, difference = (spent_levels(tuple(looks), alpha)[done - 1] for alpha in (ALPHA, ALPHA / 2))
    return Look(equivalence, 2 * difference)


@cache
def spent_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """Nominal level of a one-sided test at each look, so that all together reject wrongly with probability ``alpha``.

    The statistics at the looks are normal, with correlations √(n_i / n_j); a t-test at the same level takes their place
    (Jennison and Turnbull 2000, Group Sequential Methods, 3.8).
    """
    from scipy import optimize, stats

    shares = np.array(looks) / looks[-1]
    spent = 2 * stats.norm.sf(stats.norm.ppf(1 - alpha / 2) / np.sqrt(shares))
    correlations = np.sqrt(np.minimum.outer(shares, shares) / np.maximum.outer(shares, shares))
    bounds = [float(stats.norm.isf(spent[0]))]
    for number in range(2, len(looks) + 1):
        joint = stats.multivariate_normal(cov=correlations[:number, :number], seed=0)

        def too_much(bound: float, joint=joint, passed=1 - spent[number - 1]) -> float:  # type: ignore[no-untyped-def]
            return joint.cdf([*bounds, bound]) - passed

        bounds.append(float(optimize.brentq(too_much, 0.0, 10.0, xtol=1e-4)))
    return tuple(float(level) for level in stats.norm.sf(bounds))
