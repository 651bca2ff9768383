"""How the arms compare: a verdict each, and the three answers that a reader came for.

Is it the same training? Are the results in float32 farther apart than rounding takes them? What do other settings
change?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.semantics import SWITCHES
from lightning_vgg.report.comparison import Comparison, are_paired
from lightning_vgg.report.looks import Look, look_at
from lightning_vgg.report.results import Arms, Result, read_results
from lightning_vgg.report.statistics import (
    Difference,
    effect_size,
    estimate_difference,
    probability_of_superiority,
    seeds_needed,
)
from lightning_vgg.runs.scores import agreement


def verdicts(comparison: Comparison, arms: Arms) -> Iterator[PlainDict]:
    """One for each arm but the reference and the one that only rounds otherwise."""
    reference = arms[comparison.reference]
    control = comparison.control
    for name, members in arms.items():
        if name == comparison.reference or (control is not None and name == control.rounded):
            continue
        paired = are_paired(comparison.arms[name], comparison.arms[comparison.reference])
        common = sorted(members.keys() & reference.keys())
        seeds, reference_seeds = (common, common) if paired else (sorted(members), sorted(reference))
        ours = [members[seed].test_acc for seed in seeds]
        theirs = [reference[seed].test_acc for seed in reference_seeds]
        look = look_at(min(len(seeds), len(reference_seeds)), comparison.looks)
        yield {
            "arm": name,
            "reference": comparison.reference,
            "paired": paired,
            "seeds": len(seeds),
            "reference_seeds": len(reference_seeds),
            **judged(estimate_difference(ours, theirs, paired), comparison.margin, look),
            "effect_size": effect_size(ours, theirs),
            "superiority": probability_of_superiority(ours, theirs),
            "noise": noise(members, reference) if paired else None,
            "mcnemar": mcnemar(members, reference),
        }


def judged(difference: Difference, margin: float, look: Look) -> PlainDict:
    """A difference, and what the tests say of it.

    ``low`` and ``high`` bound the interval of confidence ``level`` (that leaves out zero where there is a difference),
    ``tost_...`` the interval that lies within the margin where there is equivalence.
    """
    known = math.isfinite(difference.standard_error)
    (low, high), (tost_low, tost_high) = (
        difference.interval(level) if known else (None, None)
        for level in (1 - look.difference, 1 - 2 * look.equivalence)
    )
    verdict, posterior = difference.verdict(margin, look), difference.posterior(margin)
    return {
        "difference": difference.value,
        "level": 1 - look.difference,
        "low": low,
        "high": high,
        "tost_low": tost_low,
        "tost_high": tost_high,
        "margin": margin,
        "p_value": difference.equivalence_p(margin) if known else None,
        "posterior": posterior and dict(zip(("below", "within", "above"), posterior, strict=True)),
        "verdict": verdict,
        "seeds_needed": seeds_needed(difference, margin) if verdict == "undecided" else None,
    }


def paired_differences(members: dict[int, Result], reference: dict[int, Result]) -> dict[int, float]:
    """Seed -> difference of test accuracy, arm minus reference."""
    return {seed: ours.test_acc - theirs.test_acc for seed, ours, theirs in _pairs(members, reference)}


def noise(members: dict[int, Result], reference: dict[int, Result]) -> PlainDict | None:
    """Standard deviation of a seed's difference of accuracy, and of that the part that the test images alone make.

    An image counts +1, 0 or -1 towards a difference; so many of them, drawn anew, would spread it by the standard
    error of their mean (McNemar's). The rest comes from the trainings. None for one seed.
    """
    values, variances = [], []
    for _, ours, theirs in _pairs(members, reference):
        right, other = (each.logits.argmax(1) == each.labels for each in (ours, theirs))
        counted = right.astype(int) - other.astype(int)
        values.append(counted.mean())
        variances.append(counted.var() / len(counted))
    if len(values) < 2:
        return None
    return {"deviation": float(np.std(values, ddof=1)), "of_test_images": float(np.sqrt(np.mean(variances)))}


def mcnemar(members: dict[int, Result], reference: dict[int, Result]) -> PlainDict | None:
    """Of two single runs: the test images that one alone classifies rightly, and the p of McNemar's exact test.

    It compares these two networks, not what other seeds would give. None where an arm has several runs.
    """
    from scipy import stats

    if len(members) > 1 or len(reference) > 1:
        return None
    ours, theirs = (next(iter(arm.values())) for arm in (members, reference))
    right, other = (each.logits.argmax(1) == each.labels for each in (ours, theirs))
    alone, other_alone = int((right & ~other).sum()), int((other & ~right).sum())
    p_value = float(stats.binomtest(alone, alone + other_alone).pvalue) if alone + other_alone else 1.0
    return {"arm": alone, "reference": other_alone, "p_value": p_value}


def rounding_answer(comparison: Comparison, arms: Arms) -> PlainDict | None:
    """Are the frameworks farther apart than rounding takes them? None where there are no runs to say so.

    ``frameworks`` and ``rounding``: share of the test images that are classified differently by the two frameworks,
    and by one of them and itself with other rounding, mean over the seeds that all three have. ``disagreement`` is the
    difference of the two; ``accuracy`` and ``loss`` those of the frameworks. The margin holds for shares of images, and
    for the loss as a share of it.
    """
    control = comparison.control
    if control is None or not all(name in arms for name in (control.arm, control.other, control.rounded)):
        return None
    ours, theirs, rounded = (arms[name] for name in (control.arm, control.other, control.rounded))
    seeds = sorted(ours.keys() & theirs.keys() & rounded.keys())
    if not seeds:
        return None
    look = look_at(len(seeds), comparison.looks)
    apart = [1 - agreement(ours[seed].logits, theirs[seed].logits) for seed in seeds]
    by_rounding = [1 - agreement(ours[seed].logits, rounded[seed].logits) for seed in seeds]

    def of_frameworks(read: Callable[[Result], float], margin: float) -> PlainDict:
        values, others = ([read(arm[seed]) for seed in seeds] for arm in (ours, theirs))
        return judged(estimate_difference(values, others, paired=True), margin, look)

    loss = float(np.mean([theirs[seed].test_loss for seed in seeds]))
    return {
        "arm": control.arm,
        "other": control.other,
        "rounded": control.rounded,
        "seeds": len(seeds),
        "frameworks": float(np.mean(apart)),
        "rounding": float(np.mean(by_rounding)),
        "disagreement": judged(estimate_difference(apart, by_rounding, paired=True), comparison.margin, look),
        "accuracy": of_frameworks(lambda result: result.test_acc, comparison.margin),
        "loss": of_frameworks(lambda result: result.test_loss, comparison.margin * loss),
    }


def other_settings(comparison: Comparison, arms: Arms, found: Sequence[PlainDict], ablation: Any) -> list[PlainDict]:
    """What other settings change: ``found``, but for the arm that has the reference's.

    ``switches``: in how many defaults it follows the other framework. ``mostly``: of several, the switch that makes
    most of the difference, and ``by`` how much of the accuracy it changes alone, where an arm turns it alone; otherwise
    the one that moves the weights most in the ablation.
    """
    reference = _switches(arms[comparison.reference])
    turned = {name: _switches(members) ^ reference for name, members in arms.items()}
    control = comparison.control
    aligned = {control.arm, control.other} if control and control.rounded in arms else None
    alone = {}
    for verdict in found:
        if len(turned[verdict["arm"]]) == 1:
            (switch,) = turned[verdict["arm"]]
            alone[switch] = verdict["difference"]
    answers = []
    for verdict in found:
        if aligned and {verdict["arm"], verdict["reference"]} == aligned:
            continue
        switches, mostly = turned[verdict["arm"]], None
        if len(switches) > 1:
            tried = {switch: value for switch, value in alone.items() if switch in switches}
            if tried:
                towards = math.copysign(1.0, verdict["difference"])
                switch = max(tried, key=lambda switch: towards * tried[switch])
                mostly = {"switch": switch, "by": tried[switch]}
            elif ablation:
                mostly = {"switch": next(each["switch"] for each in ablation if each["switch"] in switches), "by": None}
        answers.append({**verdict, "switches": len(switches), "mostly": mostly})
    return answers


def undecided(comparison: Comparison) -> list[str]:
    """What the finished runs do not decide: arms by their names, and ``rounding``.

    Raises:
        ExperimentError: a run is damaged, or tested on other images.
    """
    arms = read_results(comparison)
    found = [verdict["arm"] for verdict in verdicts(comparison, arms) if verdict["verdict"] == "undecided"]
    rounding = rounding_answer(comparison, arms)
    return found + ["rounding"] * (rounding is not None and rounding["disagreement"]["verdict"] == "undecided")


def _switches(members: dict[int, Result]) -> frozenset[str]:
    """The defaults in which an arm follows PyTorch."""
    record = next(iter(members.values())).record
    turned = frozenset(record["semantics_except"])
    return turned if record["semantics"] == "keras" else frozenset(SWITCHES) - turned


def _pairs(members: dict[int, Result], reference: dict[int, Result]) -> list[tuple[int, Result, Result]]:
    return [(seed, members[seed], reference[seed]) for seed in sorted(members.keys() & reference.keys())]
