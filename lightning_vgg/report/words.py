"""Findings as sentences, and numbers as people read them. Accuracies become percent here."""

from __future__ import annotations

import math

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.report.looks import ALPHA
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
    """A distance: ``5.6e−16``, or ``0`` where there is none."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")


def measured(rung: PlainDict) -> str:
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


def setting(value: object) -> str:
    """A value of config.yaml."""
    if value is None:
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


def listing(words: list[str]) -> str:
    """``a, b and c``"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def verdict_title(verdict: PlainDict) -> str:
    """``Equivalent to within ±1 point``"""
    match verdict["verdict"]:
        case "equivalent":
            return f"Equivalent to within {margin_points(verdict['margin'])}"
        case "different":
            return f"Different: {points(verdict['difference'])} points"
    return f"Undecided at a margin of {margin_points(verdict['margin'])}"


def verdict_sentences(verdict: PlainDict) -> list[str]:
    """What was measured, what follows, how large the effect is, and where the spread comes from."""
    sentences = [_measured(verdict), _follows(verdict)]
    if verdict["effect_size"] is not None:
        sentences.append(
            f"A run of {verdict['arm']} beats one of {verdict['reference']} with probability "
            f"{percent(verdict['superiority'], 0)}; the difference is {signed(verdict['effect_size'], 1)} standard "
            "deviations of a run."
        )
    if verdict["mcnemar"]:
        alone = verdict["mcnemar"]
        sentences.append(
            f"{verdict['arm']} alone is right on {alone['arm']:,} test images, {verdict['reference']} alone on "
            f"{alone['reference']:,}: as two trained networks they "
            f"{'differ' if alone['p_value'] < ALPHA else 'cannot be told apart'} (McNemar's exact test, "
            f"{probability(alone['p_value'])})."
        )
    if verdict["noise"]:
        sentences.append(_spread(verdict["noise"]))
    return sentences


def _spread(noise: PlainDict) -> str:
    whole, images = noise["deviation"], noise["of_test_images"]
    rest = max(whole**2 - images**2, 0.0) ** 0.5
    return (
        f"From seed to seed the difference spreads by {100 * whole:.2f} points; the test images alone would spread it "
        f"by {100 * images:.2f} (binomial, paired), so the trainings by {100 * rest:.2f}."
    )


def _measured(verdict: PlainDict) -> str:
    arm, reference, difference = verdict["arm"], verdict["reference"], verdict["difference"]
    if verdict["paired"]:
        basis = f"{_count(verdict['seeds'])}, compared in pairs with the same batches and initial weights"
    elif verdict["seeds"] == verdict["reference_seeds"]:
        basis = f"{_count(verdict['seeds'])} of each arm, compared as independent samples"
    else:
        basis = f"{_count(verdict['seeds'])} and {verdict['reference_seeds']}, compared as independent samples"
    size = f"{abs(100 * difference):.2f}"
    if float(size) == 0:
        start = f"The mean test accuracy of {arm} equals {reference}'s to two decimals"
    else:
        start = (
            f"The mean test accuracy of {arm} is {size} points {'above' if difference > 0 else 'below'} {reference}'s"
        )
    interval = ""
    if verdict["low"] is not None:
        interval = f", {interval_of(verdict)}"
    return f"{start}{interval} ({basis})."


def interval_of(verdict: PlainDict) -> str:
    """``95 % interval −0.10 to +0.50``, in points"""
    return f"{100 * verdict['level']:.4g} % interval {points(verdict['low'])} to {points(verdict['high'])}"


def _follows(verdict: PlainDict) -> str:
    margin, within = verdict["margin"], margin_points(verdict["margin"])
    if verdict["low"] is None:
        return "One seed does not show how much of this is chance: train at least two seeds of each arm, better five."
    p = probability(verdict["p_value"])
    apart = verdict["low"] > 0 or verdict["high"] < 0
    match verdict["verdict"]:
        case "equivalent":
            found = f"Two one-sided tests reject a difference of {within} or more ({p})."
            return f"{found} There is a difference, but a smaller one than that." if apart else found
        case "different":
            beyond = min(abs(verdict["low"]), abs(verdict["high"])) > margin
            more = f"all of it lies beyond {within}" if beyond else f"whether the difference exceeds {within} is open"
            return f"The interval excludes zero; {more} (equivalence: {p})."
    found = f"The runs show neither equivalence ({p}) nor a difference; that is no evidence that the two are equal."
    return f"{found} {_needed(verdict['seeds_needed'])}"


def _needed(seeds: int | None) -> str:
    number = f"About {seeds:,} seeds" if seeds is not None else f"More than {MOST_SEEDS:,} seeds"
    return f"{number} of each arm would decide with 90 % probability if difference and spread are as observed."


def _count(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def twin_headline(twin: PlainDict) -> str:
    """Is it the same training?"""
    images, differing = f"{twin['images']:,} test images", twin["images"] - twin["same_predictions"]
    same = "both frameworks make the same prediction for every one of"
    if twin["identical"]:
        return f"The same training: {same} {images}."
    if twin_verdict(twin) == "undecided":
        parted = twin["parted"]
        factor = (parted["distance"] / parted["first"]) ** (1 / (parted["step"] - 1))
        return (
            f"The same training until rounding takes over: the weights are {power_of_ten(parted['first'])} apart after "
            f"the first step, and {power_of_ten(parted['distance'])} after step {parted['step']:,}, a factor of "
            f"{factor:.2g} a step. In the end the frameworks predict differently for {differing:,} of {images}."
        )
    keras_epochs = twin.get("keras_epochs", twin["epochs"])
    if keras_epochs != twin["epochs"]:
        return f"Not the same training: Lightning's ended after epoch {twin['epochs']}, Keras's after {keras_epochs}."
    if not differing:
        return f"Not the same training, although {same} {images}: the weights part in step {twin['parted']['step']:,}."
    return f"Not the same training: the frameworks predict differently for {differing:,} of {images}."


def twin_lines(twin: PlainDict) -> list[str]:
    """The answer, and what it rests on."""
    losses = listing([{"train_loss": "training", "val_loss": "validation"}[name] for name in twin["losses"]])
    weights, parted = twin["weights"], twin["parted"]
    lines = [
        twin_headline(twin),
        f"Trained in float64 for {twin['epochs']:,} epoch{'s' if twin['epochs'] > 1 else ''}, {twin['steps']:,} steps, "
        f"from the same weights, with the same batches and dropout masks. The {losses} losses after an epoch differ by "
        f"at most {power_of_ten(max(twin['losses'].values()))} of their size; of the last weights, "
        f"{weights['tensor']} differs most, by {power_of_ten(weights['distance'])} of its largest value.",
    ]
    if parted:
        lines.append(_how_they_part(parted, twin_verdict(twin)))
    return lines


def twin_verdict(twin: PlainDict) -> str:
    """equivalent, different, or undecided where a training amplifies every rounding until the two have parted."""
    if twin["identical"]:
        return "equivalent"
    return "undecided" if twin["parted"] and twin["parted"].get("by_rounding") else "different"


def _how_they_part(parted: PlainDict, verdict: str) -> str:
    if verdict == "undecided":
        return (
            "No step makes the distance much larger than the step before: this training amplifies every rounding. A "
            "layer that computes something else shows in the first step."
        )
    place = f"They part in step {parted['step']:,}, where {parted['tensor']} differs by "
    if parted["step"] > 1 and "before" in parted:
        return (
            f"{place}{power_of_ten(parted['distance'])}, after {power_of_ten(parted['before'])} in the step before: "
            "more than rounding adds, unless it has turned the sign of a ReLU's input or the maximum of a pool."
        )
    return (
        f"{place}{power_of_ten(parted['distance'])}: far more than rounding. lightning-vgg parity --locate names a "
        "layer that computes something else."
    )


def horizon_rows(horizons: list[PlainDict]) -> dict[str, list[PlainDict]]:
    """Precision -> its arms."""
    rows: dict[str, list[PlainDict]] = {}
    for each in horizons:
        rows.setdefault(each["precision"], []).append(each)
    return rows


def horizon_summary(horizons: list[PlainDict]) -> list[str]:
    """For each precision: on how many predictions Keras and Lightning differ, and on how many by rounding alone."""
    sentences = []
    for precision, arms in horizon_rows(horizons).items():
        found = {each["arm"]: each for each in arms}
        sentences.append(
            f"In {precision}, after {arms[0]['steps'][-1]:,} steps, Keras and Lightning differ on "
            f"{_differing(found['Keras'])}; rounding alone (Lightning by other kernels) makes them differ on "
            f"{_differing(found['other kernels'])}."
        )
    return sentences


def _differing(horizon: PlainDict) -> str:
    if horizon["half"] is None:
        return "no prediction"
    return f"{percent(horizon['predictions'][-1], 1)} of the predictions (half of them since step {horizon['half']:,})"


def ladder_summary(rungs: list[PlainDict]) -> str:
    """How many rungs passed, and which failed."""
    failed = [f"{rung['name']} ({rung['precision']})" for rung in rungs if _failed(rung)]
    gated = sum(rung["limit"] is not None for rung in rungs)
    reported = len(rungs) - gated
    summary = f"{gated - len(failed)} of {gated} rungs with a gate passed"
    summary += f"; {reported} {'is' if reported == 1 else 'are'} reported, not gated." if reported else "."
    return f"{summary} Failed: {listing(failed)}." if failed else summary


def agreement_summary(findings: PlainDict) -> list[str]:
    """For each arm: how often it and the reference predict the same, and how often two seeds of the reference do."""
    found = {tuple(each["arms"]): each for each in findings["agreement"]}
    reference = findings["reference"]
    within = found[reference, reference]
    sentences = []
    for arm in findings["arms"]:
        each = found.get((arm, reference)) or found[reference, arm]
        if arm == reference or not each["pairs"]:
            continue
        share = percent(each["mean"], 1)
        sentence = f"With the same seed, {arm} and {reference} make the same prediction on {share} of the test images"
        if within["pairs"]:
            sentence += f"; two seeds of {reference} do so on {percent(within['mean'], 1)}"
        sentences.append(f"{sentence}.")
    return sentences


def ladder_rows(rungs: list[PlainDict]) -> list[PlainDict]:
    """Rungs of one name side by side: {"name", "float64", "float32"}; exact ones count as float64."""
    rows: dict[str, PlainDict] = {}
    for rung in rungs:
        column = "float32" if rung["precision"] == "float32" else "float64"
        rows.setdefault(rung["name"], {"name": rung["name"], "float64": None, "float32": None})[column] = rung
    return list(rows.values())


def ladder_verdict(row: PlainDict) -> str:
    """failed, passed, or reported where there is no gate."""
    rungs = [rung for rung in (row["float64"], row["float32"]) if rung]
    if any(_failed(rung) for rung in rungs):
        return "failed"
    return "reported" if all(rung["limit"] is None for rung in rungs) else "passed"


def _failed(rung: PlainDict) -> bool:
    """What is reported has no verdict."""
    return rung["limit"] is not None and not rung["passed"]


def common_confusions(matrix: list[list[int]], class_names: list[str], most: int = 5) -> list[str]:
    """The largest shares of a class predicted as one other: ``8 → 1: 5.7 %``."""
    shares = [
        (taken / sum(row), class_names[true], class_names[predicted])
        for true, row in enumerate(matrix)
        for predicted, taken in enumerate(row)
        if true != predicted and taken
    ]
    return [
        f"{true} → {predicted}: {percent(share, 1)}" for share, true, predicted in sorted(shares, reverse=True)[:most]
    ]


def decades(value: float | None, low: int = -17, high: int = 1) -> str:
    """Place of a distance between 10**low and 10**high on a logarithmic scale, in percent; None is infinite."""
    exponent = high if value is None else math.log10(max(value, 10.0**low))
    return f"{100 * (min(exponent, high) - low) / (high - low):.1f}"
