"""The experiment as the Keras reference reads it, and what it refuses because it does not implement it."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import plan_backbone, plan_model
from lightning_vgg.experiment.parsing import (
    ExplainingParser,
    TrainerSpec,
    config_files,
    framework_free_parser,
    readable_config,
    refuse_changes,
)
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import DataSpec, ModelSpec
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.feature_store import HEADLESS
from lightning_vgg.weights.source import find_source

PRECISIONS = {"32-true": "float32", "64-true": "float64", "bf16-mixed": "mixed_bfloat16"}
"""trainer.precision -> Keras's dtype policy."""

IMPLEMENTED = {"network", "backbone", "optimizer", "schedule", "label_smoothing", "init_from", "whitening_bias_epochs"}
"""Settings below ``model``; all others must be as they are by default."""

NOT_OF_OPTIMIZER = ("batch_norm_bias_factor", "muon_rate", "lookahead")
"""Settings below ``model.optimizer`` that must be as they are by default."""


@dataclass(frozen=True)
class Experiment:
    """One experiment; ``text`` is the config.yaml that describes it in full.

    ``resumes`` says whether a run of it is to go on.
    """

    experiment: str
    name: str | None
    seed_everything: int
    model: ModelSpec
    data: DataSpec
    trainer: TrainerSpec
    text: str
    resumes: bool

    @property
    def root(self) -> Path:
        """The folder that holds runs/."""
        return Path(self.trainer.default_root_dir or ".").expanduser()


def read_experiment(command: str, args: list[str]) -> Experiment:
    """The experiment of a command line.

    Raises:
        ExperimentError: it cannot be read or built, or asks for what the Keras reference does not implement.
    """
    parser = _parser(command)
    return _experiment(parser, _parse(parser, args), command)


def read_features(args: list[str]) -> tuple[Experiment, Path]:
    """The experiment of a command line of ``features``, and the file that it names.

    Raises:
        ExperimentError: as `read_experiment`.
    """
    parser = _parser("features")
    config = _parse(parser, args)
    return _experiment(parser, config, "features"), Path(config.output)


def _parse(parser: ExplainingParser, args: list[str]) -> Any:
    try:
        return parser.parse_args(args)
    except ExperimentError as error:
        raise _explain_trainer(error) from None


def _experiment(parser: ExplainingParser, config: Any, command: str) -> Experiment:
    values = yaml.safe_load(parser.dump(config, skip_unset=False, skip_validation=True))
    text = yaml.safe_dump(readable_config(values, {}), sort_keys=False, width=110)
    specs = parser.instantiate(config)
    asked = specs.ckpt_path if command == "fit" else None
    if asked not in (None, "last"):
        raise ExperimentError(
            f"the Keras reference does not implement --ckpt_path {asked}: it goes on from a run's last whole epoch "
            "alone, by --ckpt_path last"
        )
    wanted = specs.model
    if command == "features":  # whatever stands on the backbone, it need not fit
        wanted = replace(wanted, network=HEADLESS)
    experiment = Experiment(
        specs.experiment,
        specs.name,
        specs.seed_everything,
        wanted,
        specs.data,
        specs.trainer,
        text,
        resumes=asked is not None,
    )
    refuse_unimplemented(experiment.model, experiment.trainer)
    model, size = experiment.model, experiment.data.image_size
    # Before an image is read; the backbone of a trained run need not be where it came from any more.
    if model.backbone is None:
        plan_model(model, size, num_classes=2)
    elif command != "test" and not experiment.resumes:
        plan_model(model, size, 2, plan_backbone(model.backbone, find_source(model.backbone, KERAS), size))
    return experiment


def show_help(command: str) -> None:
    _parser(command).print_help()


def _parser(command: str) -> ExplainingParser:
    parser = framework_free_parser(f"keras-reference {command}", "YAML files and flags say what; flags win.")
    if command == "fit":
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="last: go on with the run whose config.yaml is given by -c, or the experiment's newest, after its "
            "last whole epoch.",
        )
    if command == "features":
        parser.add_argument("--output", type=str, default="features.npz", help="arrays train, train_labels, val, ...")
    return parser


def _explain_trainer(error: ExperimentError) -> ExperimentError:
    """Say of an unknown setting of the trainer that Lightning may know it, and Keras does not."""
    if not re.search(r"unknown (key '|flag --)trainer\.", str(error)):
        return error
    known = ", ".join(field.name for field in fields(TrainerSpec))
    return ExperimentError(f"{error}\nOf the trainer's settings the Keras reference implements {known}.")


def refuse_unimplemented(model: ModelSpec, trainer: TrainerSpec) -> None:
    """Raise ExperimentError for the first setting that Keras would ignore."""
    usual = ModelSpec()
    of_model = [field.name for field in fields(ModelSpec) if field.name not in IMPLEMENTED]
    for name in of_model + [f"optimizer.{name}" for name in NOT_OF_OPTIMIZER]:
        value, known = (attrgetter(name)(spec) for spec in (model, usual))
        if value != known:
            raise ExperimentError(
                f"the Keras reference does not implement model.{name}: {_yaml(value)}; leave it at {_yaml(known)}"
            )
    if trainer.precision not in PRECISIONS:
        known = " or ".join(PRECISIONS)
        raise ExperimentError(
            f"the Keras reference does not implement trainer.precision: {trainer.precision}; set it to {known}"
        )
    if trainer.max_epochs < 1:
        raise ExperimentError(f"trainer.max_epochs must be at least 1, not {trainer.max_epochs}")


def _yaml(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).split("\n")[0]


def trained_run(experiment: Experiment, args: list[str]) -> RunFolder:
    """The run whose config.yaml is given, or else the newest of the experiment.

    Raises:
        ExperimentError: there is none, Lightning trained it, or it is to go on with other settings or another backend.
    """
    files = config_files(args)
    if files and (files[-1].parent / "checkpoints").is_dir():
        run = RunFolder.open(files[-1].parent)
    else:
        run = RunFolder.newest(experiment.root, experiment.experiment, experiment.name, trained=not experiment.resumes)
    if run.read_record() or not experiment.resumes:  # empty where it was stopped before it began
        require_keras(run)
    if experiment.resumes:
        backend = run.read_record().get("backend")
        if backend not in (None, os.environ["KERAS_BACKEND"]):
            raise ExperimentError(f"{run.path} was begun with Keras on {backend}: set KERAS_BACKEND={backend}")
        refuse_changes(run.path / "config.yaml", experiment, resuming=True)
    return run


def require_keras(run: RunFolder) -> None:
    framework = run.read_record().get("framework")
    if framework != "keras":
        raise ExperimentError(f"{run.path} was trained by {framework or 'nothing yet'}, not by Keras")
