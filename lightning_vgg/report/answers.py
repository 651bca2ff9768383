"""The three answers at the top of a report, each in a sentence or two."""

from __future__ import annotations

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.semantics import SWITCHES
from lightning_vgg.report.words import (
    interval_of,
    listing,
    margin_points,
    nats,
    percent,
    points,
    signed,
    twin_headline,
    twin_verdict,
)

PRECISIONS = {"32-true": "float32", "64-true": "float64", "bf16-mixed": "bfloat16", "16-mixed": "float16"}


def answers(findings: PlainDict) -> list[PlainDict]:
    """Rows of {"question", "verdict", "word", "sentences"}; the verdict is equivalent, different or undecided, and the
    word says it as an answer to the question."""
    found = findings["answers"]
    rows = []
    if found["training"]:
        rows.append(_row("Same training?", twin_verdict(found["training"]), [twin_headline(found["training"])]))
    if found["rounding"]:
        rounding = found["rounding"]
        precision = findings["machines"][rounding["arm"]]["precision"]
        precision = PRECISIONS.get(precision, precision)
        sentences = [_farther_than_rounding(rounding, precision), _accuracy_and_loss(rounding)]
        rows.append(_row(f"Same results in {precision}?", rounding["disagreement"]["verdict"], sentences))
    if found["settings"]:
        kinds = {answer["verdict"] for answer in found["settings"]}
        verdict = next(kind for kind in ("different", "undecided", "equivalent") if kind in kinds)
        switches = any(answer["switches"] for answer in found["settings"])
        question = "Whose defaults?" if switches else "Same accuracy?"
        rows.append(_row(question, verdict, _other_settings(found["settings"], findings["margin"])))
    return rows


def headline(findings: PlainDict) -> str:
    """The whole comparison in a few sentences."""
    if run := findings["one_run"]:
        return (
            f"{findings['reference']}: test accuracy {percent(run['test_acc'])} (95 % interval for images of this kind "
            f"{percent(run['low'])} to {percent(run['high'])}), balanced accuracy {percent(run['balanced_acc'])}, "
            f"macro F1 {percent(run['macro_f1'])}, test loss {nats(run['test_loss'])} nats."
        )
    sentences = [sentence for answer in answers(findings) for sentence in answer["sentences"]]
    if not sentences:
        return f"There is only one arm, {findings['reference']}, and nothing to compare it with."
    return " ".join(sentences)


def _row(question: str, verdict: str, sentences: list[str]) -> PlainDict:
    if question == "Whose defaults?":
        word = {"equivalent": "They come to the same", "different": "They differ", "undecided": "Undecided"}[verdict]
    else:
        word = {"equivalent": "Yes", "different": "No", "undecided": "Undecided"}[verdict]
    return {"question": question, "verdict": verdict, "word": word, "sentences": sentences}


def _farther_than_rounding(rounding: PlainDict, precision: str) -> str:
    found = rounding["disagreement"]
    match found["verdict"]:
        case "equivalent":
            start = "the frameworks differ as much as rounding does"
        case "different" if found["difference"] > 0:
            start = "the frameworks are farther apart than rounding takes them"
        case "different":
            start = "the frameworks are closer together than rounding takes one of them"
        case _:
            start = "it is undecided whether the frameworks are farther apart than rounding takes them"
    interval = f", {interval_of(found)}" if found["low"] is not None else ""
    return (
        f"In {precision} {start}: with the same seed {rounding['other']} and {rounding['arm']} classify "
        f"{percent(rounding['frameworks'], 1)} of the test images differently, {rounding['arm']} and itself with other "
        f"rounding {percent(rounding['rounding'], 1)} ({points(found['difference'])} points{interval})."
    )


def _accuracy_and_loss(rounding: PlainDict) -> str:
    accuracy, loss = rounding["accuracy"], rounding["loss"]
    size = f"{points(accuracy['difference'])} points"
    if accuracy["low"] is not None:
        size += f", {interval_of(accuracy)}"
    return (
        f"Their test accuracies are {_judgement(accuracy)} ({size}), their test losses {_judgement(loss)} "
        f"({signed(loss['difference'], 4)} nats)."
    )


def _judgement(judged: PlainDict) -> str:
    if judged["verdict"] == "undecided":
        return "neither shown to be equivalent nor different"
    return judged["verdict"]


def _other_settings(found: list[PlainDict], margin: float) -> list[str]:
    """Arms of one verdict in one sentence."""
    reference = found[0]["reference"]
    same = f"the test accuracy of {reference} to within {margin_points(margin)}"
    sentences = []
    for kind in ("different", "equivalent", "undecided"):
        arms = [_arm(answer) for answer in found if answer["verdict"] == kind]
        if not arms:
            continue
        one = len(arms) == 1
        match kind:
            case "equivalent":
                sentences.append(f"{listing(arms)} {'matches' if one else 'match'} {same}.")
            case "different":
                sentences.append(f"{listing(arms)} {'differs' if one else 'differ'} from {reference} in test accuracy.")
            case "undecided":
                sentences.append(f"It is undecided whether {listing(arms)} {'matches' if one else 'match'} {same}.")
    return sentences


def _arm(answer: PlainDict) -> str:
    """``lightning-torch, with PyTorch's defaults (+6.96 points, 95 % interval +5.57 to +8.35, mostly adam formula)``"""
    name = answer["arm"]
    if answer["switches"] == len(SWITCHES):
        name += ", with PyTorch's defaults"
    facts = [f"{points(answer['difference'])} points"]
    if answer["low"] is not None:
        facts.append(interval_of(answer))
    if answer["mostly"] and answer["verdict"] != "equivalent":
        mostly = f"mostly {answer['mostly']['switch'].replace('_', ' ')}"
        by = answer["mostly"]["by"]
        facts.append(f"{mostly}, which alone makes {points(by)}" if by is not None else mostly)
    return f"{name} ({', '.join(facts)})"
