"""Which runs are compared: arms with one run a seed, from a comparison.json or from run folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.settings import dotted
from lightning_vgg.runs.folder import RunFolder

OF_ONE_RUN = (
    "experiment",
    "name",
    "seed_everything",
    "report",
    "model.init_from",
    "data.cache_dir",
    "data.memory",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_progress_bar",
)
"""Settings that differ between runs of one arm, or say where files are; they do not make another arm."""
OF_LIGHTNING = tuple(f"model.{name}" for name in ("semantics", "channels_last", "compile", "other_kernels"))
"""Settings that mean nothing to Keras."""


@dataclass(frozen=True)
class FailedRun:
    """A run without test results.

    Attributes:
        arm, seed: which one.
        message: its error message, or what is missing.
        log: what it said; None where that was not kept.
    """

    arm: str
    seed: int
    message: str
    log: Path | None


@dataclass(frozen=True)
class Control:
    """Three arms that say how far two frameworks are apart, and how far rounding alone takes one of them.

    Attributes:
        arm: of one framework.
        other: the same experiment in the other framework.
        rounded: the same as ``arm``, with other rounding at every step.
    """

    arm: str
    other: str
    rounded: str


@dataclass(frozen=True)
class Comparison:
    """Runs that are compared.

    Attributes:
        experiment: its name.
        margin: difference of test accuracy, a fraction, up to which arms count as equivalent.
        reference: the arm that the others are compared with.
        arms: name -> seed -> finished run, in the order of display.
        failed: the runs without results.
        parity, ablation: what ``lightning-vgg parity`` and ``parity --ablate`` wrote by --json.
        twin: what ``lightning-vgg twin`` wrote.
        horizon: what ``parity --horizon`` wrote.
        control: the arms of both frameworks and of rounding alone; None where there are none.
        looks: numbers of seeds at which the comparison is looked at, rising; none where their number is fixed.
    """

    experiment: str
    margin: float
    reference: str
    arms: dict[str, dict[int, RunFolder]]
    failed: list[FailedRun]
    parity: Path | None
    ablation: Path | None
    twin: Path | None = None
    horizon: Path | None = None
    control: Control | None = None
    looks: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ExperimentError(f"the margin is a fraction such as 0.01, for one point, not {self.margin}")
        if self.reference not in self.arms:
            there = f"there are runs of {', '.join(self.arms)}" if self.arms else "there is no finished run at all"
            raise ExperimentError(f"no run of the reference arm {self.reference!r} has finished; {there}")

    def runs(self) -> Iterator[tuple[str, int, RunFolder]]:
        """Every finished run with its arm and seed."""
        for arm, runs in self.arms.items():
            for seed, run in runs.items():
                yield arm, seed, run


def read_comparison(path: Path) -> Comparison:
    """The comparison of a comparison.json; paths in it are relative to its folder.

    A run whose folder or results are gone counts as failed.

    Raises:
        ExperimentError: there is no such file, it is damaged, or no run of the reference arm has finished.
    """
    folder = path.parent
    try:
        record = json.loads(path.read_text())
        arms: dict[str, dict[int, RunFolder]] = {}
        failed = [
            FailedRun(each["arm"], each["seed"], each["message"], folder / each["log"]) for each in record["failed"]
        ]
        for arm, seeds in record["arms"].items():
            for seed, place in seeds.items():
                run = RunFolder(folder / place)
                if lacking := lacks(run):
                    failed.append(FailedRun(arm, int(seed), f"{place}: {lacking}", None))
                else:
                    arms.setdefault(arm, {})[int(seed)] = run
        parity, ablation = (folder / record[key] if record[key] else None for key in ("parity", "ablation"))
        # There were comparisons without these.
        twin, horizon = (folder / record[key] if record.get(key) else None for key in ("twin", "horizon"))
        control, looks = Control(**record["control"]) if record.get("control") else None, record.get("looks", [])
        experiment, margin, reference = (record[key] for key in ("experiment", "margin", "reference"))
    except OSError as error:
        raise ExperimentError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExperimentError(
            f"{path} is damaged ({error!r}): run the comparison again, which keeps finished runs"
        ) from None
    return Comparison(experiment, margin, reference, arms, failed, parity, ablation, twin, horizon, control, looks)


def gather_runs(runs: Sequence[RunFolder], margin: float) -> Comparison:
    """The comparison of some run folders.

    An arm is named by framework, backend and semantics; runs that share these and differ in other settings, by those,
    too. The reference is the first arm of Keras, or else the first arm. A run without test results counts as failed.

    Args:
        runs: in the order of display.
        margin: of equivalence, a fraction.

    Raises:
        ExperimentError: there are two runs of one arm with the same seed, or none has finished.
    """
    arms: dict[str, dict[int, RunFolder]] = {}
    failed = []
    finished = []
    for run in runs:
        if lacking := lacks(run):
            failed.append(FailedRun(run.path.name, settings(run).get("seed_everything", 0), lacking, None))
        else:
            finished.append(run)
    for name, run in zip(_arm_names(finished), finished, strict=True):
        seed = run.read_record()["seed"]
        other = arms.setdefault(name, {}).setdefault(seed, run)
        if other is not run:
            raise ExperimentError(
                f"{other.path} and {run.path} are both {name} with seed {seed}: name only one of them"
            )
    if not finished:
        raise ExperimentError(f"none of {', '.join(str(run.path) for run in runs)} has test results")
    reference = next((name for name, members in arms.items() if framework(members) == "keras"), next(iter(arms)))
    experiments = dict.fromkeys(str(settings(run)["experiment"]) for run in finished)
    return Comparison(", ".join(experiments), margin, reference, arms, failed, None, None)


def lacks(run: RunFolder) -> str | None:
    """What keeps a run out of a comparison, or None.

    Raises:
        ExperimentError: run.json is damaged.
    """
    if not run.path.is_dir():
        return "the run folder is gone"
    try:
        record = run.read_record()
    except ValueError as error:
        raise ExperimentError(f"{run.path / 'run.json'} is damaged ({error}): train this run again") from None
    files = ("history.csv", "test_predictions.npz")
    if "test_acc" not in record or not all((run.path / name).exists() for name in files):
        return "no test results: the training did not finish"
    return None


def framework(members: dict[int, RunFolder]) -> str:
    """lightning or keras."""
    return next(iter(members.values())).read_record()["framework"]


def settings(run: RunFolder) -> PlainDict:
    """A run's config.yaml on one level: dotted key -> value.

    Raises:
        ExperimentError: it is damaged.
    """
    path = run.path / "config.yaml"
    try:
        return dotted(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ExperimentError(f"{path} is damaged ({error}): train this run again") from None


def arm_settings(run: RunFolder) -> PlainDict:
    """The settings that make a run's arm, those that its framework does not read left out."""
    skip = OF_ONE_RUN + (OF_LIGHTNING if run.read_record()["framework"] == "keras" else ())
    return {key: value for key, value in settings(run).items() if key not in skip}


def differing_keys(configurations: Sequence[PlainDict]) -> list[str]:
    """The keys whose values are not the same in all; one that is missing counts as null."""
    keys = dict.fromkeys(key for configuration in configurations for key in configuration)
    return [key for key in keys if any(each.get(key) != configurations[0].get(key) for each in configurations)]


def share_randomness(run: RunFolder, other: RunFolder) -> bool:
    """Whether two runs draw the same batches and start from the same weights, so that they can be compared in pairs."""
    record, other_record = run.read_record(), other.read_record()
    weights = record.get("initial_weights_sha256")
    of_batches = [
        {
            key: value
            for key, value in settings(each).items()
            if key.startswith(("data.batch_size", "data.augmentation"))
        }
        for each in (run, other)
    ]
    return (
        weights is not None
        and all(record[key] == other_record[key] for key in ("seed", "data_fingerprint"))
        and weights == other_record.get("initial_weights_sha256")
        and of_batches[0] == of_batches[1]
    )


def are_paired(arm: dict[int, RunFolder], reference: dict[int, RunFolder]) -> bool:
    """Whether two arms have common seeds, and in each of them the same batches and initial weights."""
    common = arm.keys() & reference.keys()
    return bool(common) and all(share_randomness(arm[seed], reference[seed]) for seed in common)


def _arm_names(runs: Sequence[RunFolder]) -> list[str]:
    configurations = [arm_settings(run) for run in runs]
    bases = [_base_name(run.read_record()) for run in runs]
    names = []
    for base, configuration in zip(bases, configurations, strict=True):
        alike = [each for name, each in zip(bases, configurations, strict=True) if name == base]
        more = [f"{'.'.join(key.split('.')[-2:])} {configuration.get(key)}" for key in differing_keys(alike)]
        names.append(", ".join([base, *more]))
    return names


def _base_name(record: PlainDict) -> str:
    if record["framework"] == "lightning":
        return f"lightning-{record['semantics']}"
    backend = record["backend"]
    return "keras" if backend == "tensorflow" else f"keras-{backend}"
