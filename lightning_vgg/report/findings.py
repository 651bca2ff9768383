"""A comparison's run folders -> report.json: every number in the report, with the runs it comes from."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.report.comparison import OF_LIGHTNING, Comparison, arm_settings, differing_keys
from lightning_vgg.report.looks import ALPHA
from lightning_vgg.report.mistakes import find_mistakes
from lightning_vgg.report.results import Arms, Result, read_results
from lightning_vgg.report.statistics import POWER
from lightning_vgg.report.verdicts import other_settings, paired_differences, rounding_answer, verdicts
from lightning_vgg.runs.class_counts import are_unbalanced
from lightning_vgg.runs.hints import hints
from lightning_vgg.runs.scores import agreement, class_scores, probabilities, reliability

CURVES = ("train_loss", "val_loss", "train_acc", "val_acc")
CURVES_OVER_CLASSES = ("val_balanced_acc", "val_macro_f1")
"""Where the classes are unbalanced; else they are hardly different from the accuracy."""
SPEED = ("images_per_second", "seconds_to_target", "startup_seconds", "peak_memory_bytes")


def find(comparison: Comparison, folder: Path) -> PlainDict:
    """All findings, ready for JSON: accuracies are fractions, times seconds, None stands for what is not known.

    Args:
        comparison: the runs.
        folder: where the report will lie; paths are relative to it.

    Raises:
        ExperimentError: runs were tested on different images, or a file is damaged.
    """
    arms = read_results(comparison)
    first = next(iter(arms[comparison.reference].values()))
    ablation, twin = read_json(comparison.ablation, "ablation"), read_json(comparison.twin)
    # A twin needs no statistics, and one seed would give none.
    twin_alone = comparison.twin is not None and sum(map(len, arms.values())) == len(arms)
    found = [] if twin_alone else list(verdicts(comparison, arms))
    alone = sum(map(len, arms.values())) == 1
    return {
        "experiment": comparison.experiment,
        "created": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "reference": comparison.reference,
        "margin": comparison.margin,
        "alpha": ALPHA,
        "power": POWER,
        "looks": comparison.looks,
        "test_images": len(first.labels),
        "class_names": first.record["class_names"],
        "class_images": first.confusion.sum(1).tolist(),
        "answers": {
            "training": twin,
            "rounding": rounding_answer(comparison, arms),
            "settings": other_settings(comparison, arms, found, ablation),
        },
        "verdicts": found,
        "one_run": one_run(first) if alone else None,
        "mistakes": find_mistakes(first, folder) if alone else None,
        "paired_differences": {
            verdict["arm"]: paired_differences(arms[verdict["arm"]], arms[comparison.reference])
            for verdict in found
            if verdict["paired"]
        },
        "arms": {name: describe_arm(members, folder) for name, members in arms.items()},
        "failed": [
            {**vars(failed), "log": failed.log and os.path.relpath(failed.log, folder)} for failed in comparison.failed
        ],
        "curves": {name: curves(members.values()) for name, members in arms.items()},
        "files": {
            name: path and os.path.relpath(path, folder)
            for name, path in (
                ("parity", comparison.parity),
                ("ablation", comparison.ablation),
                ("twin", comparison.twin),
                ("horizon", comparison.horizon),
            )
        },
        "parity": read_ladder(comparison.parity),
        "ablation": ablation,
        "twin": twin,
        "horizon": read_json(comparison.horizon, "horizon"),
        "per_class": {name: per_class(members.values()) for name, members in arms.items()},
        "class_scores": {name: mean_class_scores(members.values()) for name, members in arms.items()},
        "confusion": {name: sum_confusion(members.values()).tolist() for name, members in arms.items()},
        "calibration": {name: calibration(members.values()) for name, members in arms.items()},
        "agreement": agreements(arms),
        "speed": speed(arms, comparison.reference),
        "settings": differing_settings(comparison),
        "machines": {name: machine(members.values()) for name, members in arms.items()},
    }


def one_run(result: Result) -> PlainDict:
    """What a report of a single run begins with; the interval is Wilson's, 95 %, over test images of this kind."""
    from scipy import stats

    right = int((result.logits.argmax(1) == result.labels).sum())
    interval = stats.binomtest(right, len(result.labels)).proportion_ci(1 - ALPHA, method="wilson")
    return {
        "test_acc": result.test_acc,
        "low": interval.low,
        "high": interval.high,
        "test_loss": result.test_loss,
        **result.over_classes,
    }


def describe_arm(members: dict[int, Result], folder: Path) -> PlainDict:
    accuracies = [result.test_acc for result in members.values()]
    return {
        "mean": float(np.mean(accuracies)),
        "deviation": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        **{
            name: float(np.mean([result.over_classes[name] for result in members.values()]))
            for name in ("balanced_acc", "macro_f1")
        },
        "runs": {
            seed: {
                "folder": os.path.relpath(result.run.path, folder),
                "test_acc": result.test_acc,
                "test_loss": result.test_loss,
                **result.over_classes,
                "val_acc": result.best_row.get("val_acc"),
                "best_epoch": result.best_row["epoch"],
                "epochs": len(result.history),
                "stopped": result.record.get("stopped"),
                "checkpoint": Path(result.record["checkpoint"]).name,
                "hints": hints(result.history, len(result.record["class_names"])),
            }
            for seed, result in sorted(members.items())
        },
    }


def curves(results: Iterable[Result]) -> dict[str, list[dict[str, float]]]:
    """Column of history.csv -> mean, lowest and highest value over the seeds, in each epoch that all have reached."""
    members = list(results)
    histories = [result.history for result in members]
    counts = members[0].record.get("images_per_class")  # there were runs without it
    found: dict[str, list[dict[str, float]]] = {}
    for column in (*CURVES, *(CURVES_OVER_CLASSES if counts and are_unbalanced(counts) else ())):
        for rows in zip(*histories, strict=False):
            if all(column in row for row in rows):
                point = spread([row[column] for row in rows])
                found.setdefault(column, []).append({"epoch": rows[0]["epoch"], **point})
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "low": float(min(values)), "high": float(max(values))}


def read_ladder(path: Path | None) -> list[PlainDict] | None:
    """The rungs, then what has no verdict, with a limit of None; earlier files have that among the rungs already."""
    rungs = read_json(path, "rungs")
    if rungs is None:
        return None
    return [*rungs, *({**report, "limit": None} for report in read_json(path, "reported", []))]


def read_json(path: Path | None, key: str | None = None, otherwise: Any = None) -> Any:
    """What a JSON file holds, under the key where one is given; infinities become None. None where there is no file.

    ``otherwise`` takes the place of a key that may be missing.

    Raises:
        ExperimentError: the file is missing or damaged.
    """
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(), parse_constant=lambda constant: None)
        if key is None:
            return content
        return content[key] if otherwise is None else content.get(key, otherwise)
    except (OSError, ValueError, KeyError) as error:
        raise ExperimentError(f"{path} is damaged ({error!r}): repeat the command that wrote it") from None


def per_class(results: Iterable[Result]) -> list[dict[str, float] | None]:
    """Share of each class's test images that were classified correctly; None for a class without test images."""
    matrices = [result.confusion for result in results]
    counts = matrices[0].sum(1)
    return [
        spread([matrix[index, index] / count for matrix in matrices]) if count else None
        for index, count in enumerate(counts)
    ]


def mean_class_scores(results: Iterable[Result]) -> list[dict[str, float | None]]:
    """Precision, recall and F1 of each class, mean over the seeds; None where one of them has nothing to divide by."""
    found = [class_scores(result.confusion) for result in results]
    means = {name: np.mean([each[name] for each in found], axis=0) for name in found[0]}
    return [
        {name: None if math.isnan(value) else float(value) for name, value in zip(means, row, strict=True)}
        for row in zip(*means.values(), strict=True)
    ]


def sum_confusion(results: Iterable[Result]) -> np.ndarray:
    """Confusion matrix of all seeds together."""
    return np.sum([result.confusion for result in results], axis=0)


def calibration(results: Iterable[Result]) -> PlainDict:
    """ECE and cross-entropy over the seeds, and the bins of all seeds' predictions together."""
    members = list(results)
    labels = np.concatenate([result.labels for result in members])
    logits = np.concatenate([result.logits for result in members])
    together = reliability(labels, logits)
    return {
        "error": spread([reliability(each.labels, each.logits).expected_calibration_error for each in members]),
        "cross_entropy": spread([each.test_loss for each in members]),
        "confidence": spread([float(probabilities(each.logits).max(1).mean()) for each in members]),
        "bins": [
            {"images": int(count), "confidence": float(confidence), "accuracy": float(accuracy)}
            for count, confidence, accuracy in zip(together.counts, together.confidence, together.accuracy, strict=True)
            if count
        ],
    }


def agreements(arms: Arms) -> list[PlainDict]:
    """Share of equal predictions: of two arms, for each seed that both have; of one arm, for every pair of its seeds.

    Two arms with the same batches and initial weights should agree more than two seeds of one arm do.
    """
    found = []
    for name, other in itertools.combinations_with_replacement(arms, 2):
        if name == other:
            pairs = list(itertools.combinations(arms[name].values(), 2))
        else:
            pairs = [(arms[name][seed], arms[other][seed]) for seed in sorted(arms[name].keys() & arms[other].keys())]
        values = [agreement(one.logits, another.logits) for one, another in pairs]
        found.append({"arms": [name, other], "pairs": len(values), **(spread(values) if values else {})})
    return found


def speed(arms: Arms, reference: str) -> PlainDict:
    """Speed and memory of each arm, and as a ratio to the reference: geometric mean and range over common seeds.

    A comparison trains the arms of a seed one after the other, so ratios within a seed depend less on how busy the
    machine was. The accuracy to reach is the highest whole percent of the validation images that every run reached.
    """
    target = reached_by_all(arms)
    measured = {
        name: {seed: {key: measure(result, key, target) for key in SPEED} for seed, result in members.items()}
        for name, members in arms.items()
    }
    return {
        "target": target,
        "arms": {
            name: {key: _with_ratio(by_seed, measured[reference], key) for key in SPEED}
            for name, by_seed in measured.items()
        },
    }


def reached_by_all(arms: Arms) -> float | None:
    best = [result.best_row.get("val_acc") for members in arms.values() for result in members.values()]
    known = [value for value in best if value is not None]
    return math.floor(min(known) * 100) / 100 if len(known) == len(best) else None


def measure(result: Result, key: str, target: float | None) -> float | None:
    """One figure of one run; None where it was not measured."""
    if key != "seconds_to_target":
        return result.record.get(key)
    if target is None:
        return None
    passed = itertools.accumulate(row["seconds"] for row in result.history)
    return next(seconds for seconds, row in zip(passed, result.history, strict=True) if row.get("val_acc", 0) >= target)


def _with_ratio(
    ours: dict[int, dict[str, float | None]], theirs: dict[int, dict[str, float | None]], key: str
) -> PlainDict | None:
    values = [each[key] for each in ours.values()]
    known = [value for value in values if value is not None]
    if not known:
        return None
    pairs = [(ours[seed][key], theirs[seed][key]) for seed in sorted(ours.keys() & theirs.keys())]
    ratios = [our / their for our, their in pairs if our is not None and their]
    if not ratios:
        return {**spread(known), "ratio": None}
    return {**spread(known), "ratio": {**spread(ratios), "mean": float(np.exp(np.log(ratios).mean()))}}


def differing_settings(comparison: Comparison) -> dict[str, PlainDict]:
    """Dotted key -> arm -> value, for the settings in which the arms differ; None where an arm does not have it."""
    configurations = {name: arm_settings(next(iter(runs.values()))) for name, runs in comparison.arms.items()}
    of_lightning = [each for each in configurations.values() if "model.semantics" in each]
    alike = {*OF_LIGHTNING}.difference(differing_keys(of_lightning))
    return {
        key: {name: configuration.get(key) for name, configuration in configurations.items()}
        for key in differing_keys([*configurations.values()])
        if key not in alike
    }


def machine(results: Iterable[Result]) -> PlainDict:
    """Framework, versions, hardware and data of an arm; several values where its runs differ."""
    records = [result.record for result in results]

    def values(read: Callable[[PlainDict], object]) -> str:
        return ", ".join(dict.fromkeys(str(read(record)) for record in records))

    packages = dict.fromkeys(package for record in records for package in record["versions"])
    return {
        "framework": values(lambda record: " on ".join(filter(None, [record["framework"], record.get("backend")]))),
        "versions": {name: values(lambda record, name=name: record["versions"].get(name, "–")) for name in packages},  # type: ignore[misc]
        "device": values(lambda record: record["device"]),
        "threads": values(lambda record: record["threads"]),
        "precision": values(lambda record: record["precision"]),
        "parameters": values(lambda record: f"{record['parameters']:,}"),
        "trainable parameters": values(lambda record: f"{record['trainable_parameters']:,}"),
        "images": values(lambda record: " / ".join(f"{count:,}" for count in record["images"].values())),
        "data fingerprint": values(lambda record: record["data_fingerprint"][:12]),
    }
