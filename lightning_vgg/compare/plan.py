"""What a comparison consists of, all of it checked before anything is written."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.compare.arms import ArmSpec, CompareSpec
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.parsing import (
    OPTIONAL_GROUPS,
    ExplainingParser,
    config_files,
    dotted,
    framework_free_parser,
    known_keys,
    nearest_key,
    readable_config,
)
from lightning_vgg.experiment.semantics import resolve_semantics
from lightning_vgg.experiment.specs import DataSpec, ModelSpec
from lightning_vgg.runs.folder import RunFolder, atomic_write
from lightning_vgg.runs.machine import usable_cores

OF_ALL_ARMS = ("experiment", "name", "seed_everything", "trainer.default_root_dir", "trainer.logger")
"""Keys that no arm has for itself."""
MAY_CHANGE = (
    "compare.seeds",
    "compare.ladder",
    "compare.ablation",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "data.cache_dir",
)
"""What a repeat may ask for anew; all else is what it was when the comparison began."""
_BEGINNING = "comparison.yaml"
_SHORT = {"--seeds": "--compare.seeds", "--margin": "--compare.margin"}


@dataclass(frozen=True)
class Arm:
    """An arm with the whole experiment that it trains.

    Attributes:
        name: of the arm.
        spec: framework and backend.
        settings: every key of the experiment, as plain YAML values.
        model, data: the same as specs.
    """

    name: str
    spec: ArmSpec
    settings: dict[str, Any]
    model: ModelSpec
    data: DataSpec


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison.

    Attributes:
        experiment, name: it lies at runs/<experiment>/compare-<name>, and its runs beside it.
        settings: of the experiment that all arms share, as plain YAML values.
        compare: the arms, the seeds, the margin.
        arms: in the order of display.
        jobs: how many processes at once.
    """

    experiment: str
    name: str
    settings: dict[str, Any]
    compare: CompareSpec
    arms: tuple[Arm, ...]
    jobs: int

    @property
    def group(self) -> str:
        """Of its runs in W&B."""
        return f"{self.experiment}/compare-{self.name}"

    @property
    def folder(self) -> Path:
        return Path(self.settings["trainer"]["default_root_dir"] or ".") / "runs" / self.group

    def members(self) -> Iterator[tuple[Arm, int]]:
        """Arms and seeds, the arms of one seed after each other: whenever it ends, all arms have come as far."""
        first = self.settings["seed_everything"]
        for seed in range(first, first + self.compare.seeds):
            for arm in self.arms:
                yield arm, seed

    def run(self, arm: Arm, seed: int) -> RunFolder:
        return RunFolder(self.folder.with_name(f"{self.folder.name}_{arm.name}_seed{seed}"))

    def as_yaml(self) -> str:
        """The settings in full; they plan this comparison again."""
        values = {**self.settings, "name": self.name, "compare": asdict(self.compare)}
        return yaml.safe_dump(values, sort_keys=False, width=110)


def parser(command: str) -> ExplainingParser:
    parser = framework_free_parser(
        f"lightning-vgg {command}",
        "Train an experiment in several arms over several seeds, each run a process, and report how they compare. "
        "What is finished stays, and the same command goes on from there.",
    )
    parser.add_class_arguments(CompareSpec, "compare")
    parser.set_defaults({"compare.arms": {name: asdict(arm) for name, arm in CompareSpec().arms.items()}})
    parser.add_argument("--jobs", type=int, default=1, help="Processes at once; they share the cores.")
    parser.epilog = (
        "--seeds and --margin are short for --compare.seeds and --compare.margin. The comparison lies at "
        "runs/<experiment>/compare-<name>; without --name it has that of the last YAML file."
    )
    return parser


def read_plan(command: str, args: list[str]) -> ComparisonPlan:
    """The comparison of a command line.

    Raises:
        ExperimentError: anything that can be refused without reading an image; keys at fault are named.
    """
    for short, long in _SHORT.items():
        args = [long + arg.removeprefix(short) if arg.split("=")[0] == short else arg for arg in args]
    reader = parser(command)
    config = reader.parse_args(args)
    values = yaml.safe_load(reader.dump(config, skip_unset=False, skip_validation=True))
    specs = reader.instantiate(config)
    if config.jobs < 1:
        raise ExperimentError(f"--jobs must be at least 1, not {config.jobs}")
    settings = readable_config(values, {})
    files = config_files(args)
    return ComparisonPlan(
        experiment=specs.experiment,
        name=specs.name or (files[-1].stem if files else "defaults"),
        settings={**settings, "name": None},
        compare=specs.compare,
        arms=tuple(_plan_arm(name, arm, settings) for name, arm in specs.compare.arms.items()),
        jobs=config.jobs,
    )


def _plan_arm(name: str, arm: ArmSpec, base: Mapping[str, Any]) -> Arm:
    reader = framework_free_parser("", "")
    settings = _with_settings(base, name, arm, known_keys(reader))
    try:
        specs = reader.instantiate(reader.parse_object(settings))
        if arm.framework == "keras":
            # What the Keras reference does not implement is its own to know; this part of it loads no Keras.
            from keras_reference.config import refuse_unimplemented

            refuse_unimplemented(specs.model, specs.trainer)
            backend = backend_of(arm)
            if importlib.util.find_spec(backend) is None:
                raise ExperimentError(f"Keras is to run on {backend}, which is not installed: pip install {backend}")
        resolve_semantics(specs.model.semantics, specs.model.semantics_except)
        start = specs.model.init_from
        if start is not None and not Path(start).is_file():
            raise ExperimentError(f"model.init_from: there is no file {start}")
        if specs.model.backbone is None:  # otherwise it can be planned when the backbone is loaded
            plan_network(specs.model.network, specs.data.image_size, num_classes=2)
    except ExperimentError as error:
        raise ExperimentError(f"compare.arms.{name}: {error}") from None
    return Arm(name, arm, settings, specs.model, specs.data)


def backend_of(arm: ArmSpec) -> str:
    return arm.backend or "tensorflow"


def _with_settings(base: Mapping[str, Any], name: str, arm: ArmSpec, keys: list[str]) -> dict[str, Any]:
    settings = copy.deepcopy(dict(base))
    for key, value in arm.settings.items():
        place = f"compare.arms.{name}.settings"
        if key in OF_ALL_ARMS:
            raise ExperimentError(f"{place}: {key} is the same for all arms; set it beside 'compare', or as a flag")
        if key not in keys:
            raise ExperimentError(f"{place}: unknown key {key!r}{nearest_key(key, keys)}")
        if key not in OPTIONAL_GROUPS and any(known.startswith(f"{key}.") for known in keys):
            raise ExperimentError(f"{place}: {key} has settings of its own; name each with its dots, as {key}.KEY")
        *groups, last = key.split(".")
        node = settings
        for group in groups:
            node[group] = node[group] or {}  # one of the OPTIONAL_GROUPS may be null
            node = node[group]
        node[last] = value
    return settings


def write_beginning(plan: ComparisonPlan) -> None:
    with atomic_write(plan.folder / _BEGINNING) as file:
        file.write(plan.as_yaml().encode())


def hold_to_beginning(plan: ComparisonPlan) -> None:
    """Refuse what has changed since the comparison began: whoever changes the margin or the data begins another one.

    Seeds can be added, and arms.

    Raises:
        ExperimentError: with the key that changed.
    """
    path = plan.folder / _BEGINNING
    if not path.exists():
        return
    before, now = (yaml.safe_load(text) for text in (path.read_text(), plan.as_yaml()))
    common = before["compare"]["arms"].keys() & now["compare"]["arms"].keys()
    for values in (before, now):
        values["compare"]["arms"] = {name: values["compare"]["arms"][name] for name in sorted(common)}
    before, now = dotted(before), dotted(now)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in MAY_CHANGE:
            raise ExperimentError(
                f"{key} was {before.get(key)} when the comparison {plan.folder} began, and is {now.get(key)} now: "
                "give the new comparison another --name"
            )


def arm_environment(plan: ComparisonPlan, arm: Arm) -> dict[str, str]:
    """What the process of an arm is told by variables."""
    return {
        "WANDB_RUN_GROUP": plan.group,
        "WANDB_JOB_TYPE": arm.name,
        "KERAS_BACKEND": backend_of(arm.spec),
        **share_of_machine(plan.jobs),
    }


def share_of_machine(jobs: int) -> dict[str, str]:
    """Variables for each of several processes; TensorFlow is told of as many threads as torch.

    One process alone gets what the user says in OMP_NUM_THREADS, or else each framework's default.
    """
    variables: dict[str, str] = {}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)) if jobs > 1 else None)
    if threads is not None:
        variables |= {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    if jobs > 1:
        variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # or the first process takes the whole GPU
    return variables
