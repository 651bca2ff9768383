"""Findings in plain words, and numbers as people read them. Accuracies turn from fractions into percent here."""

from __future__ import annotations

import math
from typing import Any

from lightning_vgg.report.statistics import MOST_SEEDS


def percent(value: float | None, digits: int = 2) -> str:
    """``95.69 %``"""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float, digits: int = 2) -> str:
    """A difference of accuracies in points, its sign written: ``−0.07``."""
    return signed(100 * value, digits)


def signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def margin_points(margin: float) -> str:
    """``±1 point``"""
    size = f"{100 * margin:.6g}"
    return f"±{size} point{'' if size == '1' else 's'}"


def power_of_ten(value: float | None) -> str:
    """A distance as ``5.6e-16``; 0 stands for nothing at all."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")


def measured(rung: dict[str, Any]) -> str:
    """A rung's distance; infinite where a tensor is missing or not a number."""
    return "∞" if rung["measured"] is None else power_of_ten(rung["measured"])


def probability(value: float | None) -> str:
    """``p = .038``"""
    if value is None:
        return "p unknown"
    if not 0.001 <= value < 0.9995:
        return "p < .001" if value < 0.5 else "p > .999"
    return f"p = {value:.3f}".replace("0.", ".")


def nats(value: float) -> str:
    """A cross-entropy."""
    return f"{value:.4f}"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def memory(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB" if value < 10 * 2**30 else f"{value / 2**30:,.1f} GiB"


def rate(value: float) -> str:
    return f"{value:,.0f}"


def setting(value: Any) -> str:
    """A value of config.yaml."""
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


def listing(words: list[str]) -> str:
    """``a, b and c``"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def headline(findings: dict[str, Any]) -> str:
    """The whole comparison in a sentence or two."""
    verdicts, reference = findings["verdicts"], findings["reference"]
    if not verdicts:
        return f"There is one arm only, {reference}, and nothing to compare it with."
    same = f"the test accuracy of {reference} within {margin_points(findings['margin'])}"
    sentences = []
    for kind in ("equivalent", "different", "undecided"):
        arms = [
            f"{verdict['arm']} ({points(verdict['difference'])} points)"
            for verdict in verdicts
            if verdict["verdict"] == kind
        ]
        if not arms:
            continue
        reach = "reaches" if len(arms) == 1 else "reach"
        match kind:
            case "equivalent":
                sentences.append(f"{listing(arms)} {reach} {same}.")
            case "different":
                sentences.append(f"{listing(arms)} {reach} another test accuracy than {reference}.")
            case "undecided":
                sentences.append(f"Undecided: whether {listing(arms)} {reach} {same}.")
    return " ".join(sentences)


def verdict_title(verdict: dict[str, Any]) -> str:
    """``Equivalent within ±1 point``"""
    within = f"within {margin_points(verdict['margin'])}"
    if verdict["verdict"] == "different":
        return f"Different: {points(verdict['difference'])} points"
    return f"{verdict['verdict'].capitalize()} {within}"


def verdict_sentences(verdict: dict[str, Any]) -> list[str]:
    """What was measured, and what follows."""
    return [_measured(verdict), _follows(verdict)]


def _measured(verdict: dict[str, Any]) -> str:
    arm, reference, difference = verdict["arm"], verdict["reference"], verdict["difference"]
    if verdict["paired"]:
        basis = f"{_count(verdict['seeds'])}, compared in pairs of equal batches and initial weights"
    elif verdict["seeds"] == verdict["reference_seeds"]:
        basis = f"{_count(verdict['seeds'])} of each arm, compared as independent"
    else:
        basis = f"{_count(verdict['seeds'])} and {verdict['reference_seeds']}, compared as independent"
    size = f"{abs(100 * difference):.2f}"
    if float(size) == 0:
        start = f"The mean test accuracy of {arm} is that of {reference} to two digits"
    else:
        start = (
            f"The mean test accuracy of {arm} is {size} points {'above' if difference > 0 else 'below'} {reference}'s"
        )
    interval = ""
    if verdict["low"] is not None:
        interval = f", 95 % interval {points(verdict['low'])} to {points(verdict['high'])}"
    return f"{start}{interval} ({basis})."


def _follows(verdict: dict[str, Any]) -> str:
    margin, within = verdict["margin"], margin_points(verdict["margin"])
    if verdict["low"] is None:
        return "One seed does not tell how much chance there is in it: train at least two of each arm, better five."
    p = probability(verdict["p_value"])
    apart = verdict["low"] > 0 or verdict["high"] < 0
    match verdict["verdict"]:
        case "equivalent":
            found = f"Two one-sided tests reject a difference of {within} or more ({p})."
            return f"{found} There is a difference, but a smaller one." if apart else found
        case "different":
            beyond = min(abs(verdict["low"]), abs(verdict["high"])) > margin
            more = f"all of it lies beyond {within}" if beyond else f"whether it exceeds {within} is open"
            return f"The interval leaves out zero; {more} (equivalence: {p})."
    found = f"Neither equivalence ({p}) nor a difference is shown; that is no evidence that the two are equal."
    return f"{found} {_needed(verdict['seeds_needed'])}"


def _needed(seeds: int | None) -> str:
    number = f"About {seeds:,} seeds" if seeds is not None else f"More than {MOST_SEEDS:,} seeds"
    return f"{number} of each arm would decide with a probability of 90 %, if difference and spread are as seen here."


def _count(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def ladder_summary(rungs: list[dict[str, Any]]) -> str:
    """How many rungs passed, and which failed."""
    failed = [f"{rung['name']} ({rung['precision']})" for rung in rungs if not rung["passed"]]
    told = sum(rung["limit"] is None for rung in rungs)
    gated = len(rungs) - told
    summary = f"{gated - len(failed)} of {gated} rungs with a gate passed"
    summary += f", {told} {'is' if told == 1 else 'are'} told without one." if told else "."
    return f"{summary} Failed: {listing(failed)}." if failed else summary


def agreement_summary(findings: dict[str, Any]) -> list[str]:
    """For each arm: how often it predicts as the reference does, beside two seeds of the reference."""
    found = {tuple(each["arms"]): each for each in findings["agreement"]}
    reference = findings["reference"]
    within = found[reference, reference]
    sentences = []
    for arm in findings["arms"]:
        each = found.get((arm, reference)) or found[reference, arm]
        if arm == reference or not each["pairs"]:
            continue
        sentence = f"{arm} and {reference} of the same seed predict alike on {percent(each['mean'], 1)} of the images"
        if within["pairs"]:
            sentence += f"; two seeds of {reference} on {percent(within['mean'], 1)}"
        sentences.append(f"{sentence}.")
    return sentences


def ladder_rows(rungs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rungs of one name side by side: {"name", "float64", "float32"}; exact ones stand with float64."""
    rows: dict[str, dict[str, Any]] = {}
    for rung in rungs:
        column = "float32" if rung["precision"] == "float32" else "float64"
        rows.setdefault(rung["name"], {"name": rung["name"], "float64": None, "float32": None})[column] = rung
    return list(rows.values())


def ladder_verdict(row: dict[str, Any]) -> str:
    """failed, told or passed."""
    rungs = [rung for rung in (row["float64"], row["float32"]) if rung]
    if not all(rung["passed"] for rung in rungs):
        return "failed"
    return "told" if all(rung["limit"] is None for rung in rungs) else "passed"


def common_confusions(matrix: list[list[int]], class_names: list[str], most: int = 5) -> list[str]:
    """The largest shares of a class taken for one other: ``8 for 1: 5.7 %``."""
    shares = [
        (taken / sum(row), class_names[true], class_names[predicted])
        for true, row in enumerate(matrix)
        for predicted, taken in enumerate(row)
        if true != predicted and taken
    ]
    return [
        f"{true} for {predicted}: {percent(share, 1)}" for share, true, predicted in sorted(shares, reverse=True)[:most]
    ]


def decades(value: float) -> float:
    """log10, for scales; 0 is taken for 1e-17."""
    return math.log10(max(value, 1e-17))
