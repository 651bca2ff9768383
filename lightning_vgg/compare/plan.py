"""What a comparison consists of, all of it checked before anything is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.compare.arms import ArmSpec, CompareSpec
from lightning_vgg.compare.twin import Twin, plan_twin
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.keras_support import refuse_unimplemented
from lightning_vgg.experiment.parsing import (
    ExplainingParser,
    config_files,
    experiment_spec,
    framework_free_parser,
    read_settings,
    with_values,
)
from lightning_vgg.experiment.settings import as_yaml, dotted, plain_settings
from lightning_vgg.experiment.specs import ExperimentSpec, ModelSpec
from lightning_vgg.report.comparison import Control
from lightning_vgg.report.looks import looks_up_to
from lightning_vgg.runs.folder import RunFolder, atomic_write
from lightning_vgg.runs.machine import share_of_machine
from lightning_vgg.weights.neutral import require_weights

OF_ALL_ARMS = ("experiment", "name", "seed_everything", "trainer.default_root_dir", "trainer.logger")
"""Keys that all arms share."""
MAY_CHANGE = (
    "report",
    "compare.seeds",
    "compare.max_seeds",
    "compare.rounding",
    "compare.ladder",
    "compare.ablation",
    "compare.horizon",
    "compare.twin",
    "compare.twin_images",
    "compare.twin_epochs",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "data.cache_dir",
    "data.memory",
)
"""What may change when the command is repeated; everything else must be as it was when the comparison began."""
_BEGINNING = "comparison.yaml"
_SHORT = {f"--{name}": f"--compare.{name.replace('-', '_')}" for name in ("seeds", "max-seeds", "margin")}


@dataclass(frozen=True)
class Arm:
    """An arm with the whole experiment that it trains.

    Attributes:
        name: of the arm.
        spec: framework and backend.
        experiment: what it trains.
    """

    name: str
    spec: ArmSpec
    experiment: ExperimentSpec


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison.

    Attributes:
        experiment: that all arms share.
        name: it lies at runs/<experiment>/compare-<name>, and its runs beside it.
        compare: the arms, the seeds, the margin.
        arms: in the order of display; the last one is that of rounding, if there is one.
        control: the arms of both frameworks, and of rounding.
        jobs: how many processes at once, on one machine.
        scheduler: address of the Dask scheduler whose workers train; None to train here.
        twin: the experiment with Keras's defaults as a twin; None where it is not wanted, or no arm is Keras's.
    """

    experiment: ExperimentSpec
    name: str
    compare: CompareSpec
    arms: tuple[Arm, ...]
    control: Control | None
    jobs: int
    scheduler: str | None
    twin: Twin | None

    @property
    def group(self) -> str:
        """Of its runs in W&B."""
        return f"{self.experiment.experiment}/compare-{self.name}"

    @property
    def folder(self) -> Path:
        return self.experiment.root / "runs" / self.group

    @property
    def looks(self) -> list[int]:
        """Numbers of seeds after which it is decided whether more are needed; one where their number is fixed."""
        seeds = self.compare.seeds
        return looks_up_to(self.compare.max_seeds) if seeds == "auto" else [seeds]

    def members(self, seeds: int) -> Iterator[tuple[Arm, int]]:
        """Arms and seeds, seed by seed: wherever it stops, all arms have trained equally far."""
        first = self.experiment.seed_everything
        for seed in range(first, first + seeds):
            for arm in self.arms:
                yield arm, seed

    def run(self, arm: Arm, seed: int) -> RunFolder:
        return RunFolder(self.folder.with_name(f"{self.folder.name}_{arm.name}_seed{seed}"))

    def as_yaml(self) -> str:
        """The settings in full; they plan this comparison again."""
        return as_yaml({**plain_settings(self.experiment), "name": self.name, "compare": asdict(self.compare)})


def comparison_parser(program: str = "lightning-vgg compare") -> ExplainingParser:
    parser = framework_free_parser(
        program,
        "Train an experiment in several arms over several seeds, each run a process, and report how they compare. "
        "Finished runs are kept, and the same command continues from there.",
        named_groups={"compare.arms": ArmSpec},
    )
    parser.add_class_arguments(CompareSpec, "compare")
    parser.set_defaults({"compare.arms": {name: asdict(arm) for name, arm in CompareSpec().arms.items()}})
    parser.add_argument("--jobs", type=int, default=1, help="Processes at once; they share the cores.")
    parser.add_argument(
        "--scheduler", type=str | None, help="Address of a Dask scheduler; its workers train, and share this folder."
    )
    parser.epilog = (
        "--seeds, --max-seeds and --margin are short for --compare.seeds, ... The comparison goes to "
        "runs/<experiment>/compare-<name>; by default the name is that of the last YAML file."
    )
    return parser


def read_plan(parser: ExplainingParser, args: list[str]) -> ComparisonPlan:
    """The comparison of a command line.

    Raises:
        ExperimentError: anything that can be refused without reading an image; keys at fault are named.
    """
    for short, long in _SHORT.items():
        args = [long + arg.removeprefix(short) if arg.split("=")[0] == short else arg for arg in args]
    config = parser.read(args)
    if config.jobs < 1:
        raise ExperimentError(f"--jobs must be at least 1, not {config.jobs}")
    experiment, files = experiment_spec(config), config_files(args)
    if config.scheduler is not None:
        require("distributed", "cluster")
        # Workers have working folders of their own.
        root = str(experiment.root.resolve())
        experiment = replace(experiment, trainer=replace(experiment.trainer, default_root_dir=root))
    arms = tuple(_plan_arm(name, arm, experiment) for name, arm in config.compare.arms.items())
    rounded = _plan_rounded(arms) if config.compare.rounding else None
    plan = ComparisonPlan(
        experiment=replace(experiment, name=None),
        name=experiment.name or (files[-1].stem if files else "defaults"),
        compare=config.compare,
        arms=(*arms, rounded[1]) if rounded else arms,
        control=rounded[0] if rounded else None,
        jobs=config.jobs,
        scheduler=config.scheduler,
        twin=None,
    )
    return replace(plan, twin=_plan_twin(plan))


def _plan_twin(plan: ComparisonPlan) -> Twin | None:
    spec, experiment = plan.compare, plan.experiment
    if not spec.twin or not any(arm.framework == "keras" for arm in spec.arms.values()):
        return None
    some = replace(
        experiment,
        model=replace(experiment.model, semantics="keras", semantics_except=[]),
        data=replace(experiment.data, train_images=spec.twin_images),
        trainer=replace(experiment.trainer, max_epochs=min(spec.twin_epochs, experiment.trainer.max_epochs)),
    )
    try:
        return plan_twin(some, plan.folder / "twin", f"{plan.folder.name}_twin")
    except ExperimentError as error:
        raise ExperimentError(f"compare.twin: {error}") from None


def _plan_rounded(arms: Sequence[Arm]) -> tuple[Control, Arm] | None:
    """The arm that tells rounding from a difference, where both frameworks train the same experiment."""
    keras = next((arm for arm in arms if arm.spec.framework == "keras"), None)
    twins = (arm for arm in arms if keras and arm.spec.framework == "lightning" and _same_training(arm, keras))
    twin = next(twins, None)
    if keras is None or twin is None:
        return None
    experiment = replace(twin.experiment, model=replace(twin.experiment.model, compile=False, other_kernels=True))
    arm = Arm(f"{twin.name}-rounded", ArmSpec("lightning"), experiment)
    if arm.name in {each.name for each in arms}:
        raise ExperimentError(f"compare.arms: {arm.name} is the name of the arm of rounding; give yours another one")
    return Control(twin.name, keras.name, arm.name), arm


def _same_training(arm: Arm, keras: Arm) -> bool:
    """Whether an arm of Lightning trains what one of Keras does."""
    usual = ModelSpec()
    indifferent = {"channels_last": usual.channels_last, "compile": False, "semantics": "keras", "semantics_except": []}
    models = [replace(each.experiment.model, **indifferent) for each in (arm, keras)]  # type: ignore[arg-type]
    return (
        arm.experiment.model.resolved_semantics == keras.experiment.model.resolved_semantics
        and models[0] == models[1]
        and replace(arm.experiment, model=models[1]) == replace(keras.experiment, model=models[1])
    )


def _plan_arm(name: str, arm: ArmSpec, base: ExperimentSpec) -> Arm:
    place = f"compare.arms.{name}.settings"
    for key in arm.settings:
        if key in OF_ALL_ARMS:
            raise ExperimentError(f"{place}: {key} is the same for all arms; set it beside 'compare', or as a flag")
    experiment = with_values(replace(base, name=None), arm.settings, place)
    try:
        if arm.framework == "keras":
            refuse_unimplemented(experiment)
            backend = backend_of(arm)
            if importlib.util.find_spec(backend) is None:
                raise ExperimentError(f"Keras is to run on {backend}, which is not installed: pip install {backend}")
        model = experiment.model
        require_weights(model.init_from)
        if model.backbone is None:  # otherwise it can be planned when the backbone is loaded
            plan_model(experiment, num_classes=2)
    except ExperimentError as error:
        raise ExperimentError(f"compare.arms.{name}: {error}") from None
    return Arm(name, arm, experiment)


def backend_of(arm: ArmSpec) -> str:
    return arm.backend or "tensorflow"


def write_beginning(plan: ComparisonPlan) -> None:
    with atomic_write(plan.folder / _BEGINNING) as file:
        file.write(plan.as_yaml().encode())


def hold_to_beginning(plan: ComparisonPlan) -> None:
    """Refuse what has changed since the comparison began: another margin or other data are another comparison.

    Seeds can be added, and arms; but not to a comparison that looks at its seeds until they decide.

    Raises:
        ExperimentError: with the key that changed.
    """
    path = plan.folder / _BEGINNING
    if not path.exists():
        return
    before, now = read_settings(path), yaml.safe_load(plan.as_yaml())
    if "auto" in (before["compare"]["seeds"], now["compare"]["seeds"]):
        for key in ("seeds", "max_seeds"):
            old, new = before["compare"].get(key), now["compare"][key]
            if old != new:
                raise ExperimentError(
                    f"compare.{key} was {old} when the comparison {plan.folder} began, and is {new} now; how often the "
                    "seeds are looked at has to be fixed beforehand: give the new comparison another --name"
                )
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
    """Environment variables of an arm's process."""
    return {
        "WANDB_RUN_GROUP": plan.group,
        "WANDB_JOB_TYPE": arm.name,
        "KERAS_BACKEND": backend_of(arm.spec),
        **share_of_machine(plan.jobs),
    }
