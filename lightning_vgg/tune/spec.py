"""What a study is: the experiment, its search space, and how the search goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.parsing import ExplainingParser, experiment_spec, framework_free_parser, with_values
from lightning_vgg.experiment.settings import dotted, plain_settings
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.tune.engines import Framework, find_engine
from lightning_vgg.tune.space import FIXED, Space, decode, read_space

Objective = Literal["val_acc", "images_per_second", "parameters"]

DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "val_acc": "maximize",
    "images_per_second": "maximize",
    "parameters": "minimize",
}


@dataclass(frozen=True)
class TuneSpec:
    """The search.

    Args:
        space: key of the experiment -> a list of choices, or a range {low, high} with log: true or a step.
        objectives: val_acc (of the epoch that model.best_by chooses); or [val_acc, images_per_second] or
            [val_acc, parameters].
        pruner: median stops a trial whose best validation accuracy so far lies below the median of the earlier trials'
            at the same epoch; none stops none. With several objectives there is no pruning.
        warmup_epochs: epochs of every trial that are never pruned.
        startup_trials: random trials before the search learns from them, and complete ones before it prunes.
    """

    space: PlainDict = field(default_factory=dict)
    objectives: list[Objective] = field(default_factory=lambda: ["val_acc"])
    pruner: Literal["median", "none"] = "median"
    warmup_epochs: int = 1
    startup_trials: int = 8

    def __post_init__(self) -> None:
        if self.objectives[:1] != ["val_acc"] or len(set(self.objectives)) != len(self.objectives):
            raise ExperimentError(
                f"tune.objectives must begin with val_acc and name nothing twice, not {self.objectives}"
            )
        if min(self.warmup_epochs, self.startup_trials) < 1:
            raise ExperimentError("tune.warmup_epochs and tune.startup_trials must be at least 1")


@dataclass(frozen=True)
class StudySettings:
    """A study as plain values, which are passed to the processes of its workers.

    Args:
        experiment: whose settings are varied.
        tune: the search.
        space: the parameters that tune.space describes.
        framework: which side trains.
        trials: finished ones, over all workers, after which the study is done.
        storage: URL of a database or a gRPC proxy that several machines share; None for a journal in the folder.
        jobs: processes.
    """

    experiment: ExperimentSpec
    tune: TuneSpec
    space: Space
    framework: Framework
    trials: int
    storage: str | None
    jobs: int

    @property
    def name(self) -> str:
        """Of the study, of its folder below runs/, and of the trials' W&B group."""
        return self.experiment.experiment

    @property
    def folder(self) -> Path:
        return self.experiment.root / "runs" / self.name

    @property
    def pruning(self) -> bool:
        return self.tune.pruner != "none" and len(self.tune.objectives) == 1

    def experiment_of(self, params: PlainDict, name: str | None = None) -> ExperimentSpec:
        """The experiment with a trial's parameters."""
        return replace(with_values(self.experiment, decode(self.space, params)), name=name)

    def fixed(self) -> PlainDict:
        """What must not change when a study continues, as dotted keys; where the images are may change."""
        keys = {
            **{f"tune.{key}": value for key, value in asdict(self.tune).items()},
            "framework": self.framework,
            **dotted(plain_settings(self.experiment)),
        }
        moving = {
            "experiment",
            "name",
            "report",
            "data.root",
            "data.cache_dir",
            "data.memory",
            *(key for key in FIXED if "trainer." in key),
        }
        return {key: value for key, value in keys.items() if key not in moving}


def tune_parser(program: str = "lightning-vgg tune") -> ExplainingParser:
    parser = framework_free_parser(
        program,
        "Search for the best settings of an experiment with Optuna. The same command continues a study that stopped.",
    )
    parser.add_class_arguments(TuneSpec, "tune")
    parser.add_argument(
        "--trials", type=int, default=30, help="Number of finished trials, complete or pruned, of all workers together."
    )
    parser.add_argument(
        "--storage",
        type=str | None,
        default=None,
        help="A database (sqlite:///FILE, postgresql://...) or proxy (grpc://HOST:PORT) that workers on several "
        "machines share; null for a journal in the study's folder.",
    )
    parser.add_argument("--jobs", type=int, default=1, help="Processes on this machine.")
    parser.add_argument("--framework", type=Framework, default="lightning", help="Which framework trains.")
    parser.add_argument(
        "--retrain-best",
        type=int,
        nargs="+",
        default=None,
        metavar="SEED",
        help="Do not search: train the best settings found with each of these seeds, and test each once.",
    )
    return parser


def read_settings(config: Namespace) -> StudySettings:
    """Check everything that can be checked without a framework.

    Raises:
        ExperimentError: names the key and the remedy.
    """
    experiment = experiment_spec(config)
    if experiment.name is not None:
        raise ExperimentError("name: a study names its runs itself; name the study by 'experiment'")
    if min(config.trials, config.jobs) < 1:
        raise ExperimentError("--trials and --jobs must be at least 1")
    if experiment.data.validation_fraction == 0:
        raise ExperimentError("data.validation_fraction is 0; a study needs validation images to judge its trials")
    check = find_engine(config.framework).check
    check(experiment)
    space = read_space(config.tune.space, experiment, check)
    return StudySettings(experiment, config.tune, space, config.framework, config.trials, config.storage, config.jobs)
