"""``keras-reference COMMAND``: the commands, and how the Keras reference reads an experiment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from jsonargparse import Namespace

from keras_reference.trained_runs import trained_run
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.experiment.backbone_plan import plan_backbone, plan_model
from lightning_vgg.experiment.keras_support import refuse_unimplemented
from lightning_vgg.experiment.parsing import ExplainingParser, UnknownKey, experiment_spec, framework_free_parser
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import ExperimentSpec, TrainerSpec
from lightning_vgg.experiment.trainer_flags import require_loggers
from lightning_vgg.report import report_run
from lightning_vgg.runs.folder import RunFolder, test_lines
from lightning_vgg.weights.export_arguments import read_export_request
from lightning_vgg.weights.feature_store import HEADLESS, write_features
from lightning_vgg.weights.source import find_source


def main(command: str, args: list[str]) -> None:
    """Run one command with its arguments."""
    match command:
        case "features":
            experiment, config = read_command(command, args)
            from keras_reference.features import backbone_features  # loads Keras

            write_features(Path(config.output), backbone_features(experiment))
            print(config.output)
        case "export":
            request = read_export_request("keras-reference export", args)
            require("keras", "keras")
            from keras_reference.export import export_run  # loads Keras

            print(export_run(request))
        case _:
            train_or_test(command, args)


def train_or_test(command: str, args: list[str]) -> RunFolder:
    """Run ``fit`` or ``test``, and print the test results; returns the run's folder."""
    experiment, config = read_command(command, args)
    resumes = command == "fit" and config.ckpt_path is not None
    run = trained_run(experiment, args, resumes) if command == "test" or resumes else None
    from keras_reference import module  # seconds, and not before what can be refused is refused

    if command == "fit":
        run = module.fit(experiment, resumed=run)
    else:
        assert run is not None
        run = module.test(experiment, run)
    print(test_lines(run))
    if experiment.report:
        print(f"report   {report_run(run)}")
    return run


def read_command(command: str, args: Sequence[str]) -> tuple[ExperimentSpec, Namespace]:
    """The experiment of a command line, and the command's own flags.

    Raises:
        ExperimentError: it cannot be read or built, or asks for what the Keras reference does not implement.
    """
    try:
        config = command_parser(command).read(args)
    except UnknownKey as error:
        if not error.key.startswith("trainer."):
            raise
        known = ", ".join(field.name for field in fields(TrainerSpec))
        raise ExperimentError(f"{error}\nOf the trainer's settings the Keras reference implements {known}.") from None
    experiment = experiment_spec(config)
    asked = config.ckpt_path if command == "fit" else None
    if asked not in (None, "last"):
        raise ExperimentError(
            f"the Keras reference does not implement --ckpt_path {asked}: it continues only after the last complete "
            "epoch, with --ckpt_path last"
        )
    if command == "features":  # the network above the backbone is not used, so it need not fit
        experiment = replace(experiment, model=replace(experiment.model, network=HEADLESS))
    refuse_unimplemented(experiment)
    require_loggers(experiment.trainer)
    if experiment.trainer.accumulate_grad_batches > 1 and os.environ["KERAS_BACKEND"] == "jax":
        raise ExperimentError(
            "the Keras reference does not implement trainer.accumulate_grad_batches on JAX, where the last step of an "
            "epoch cannot be made from outside of model.fit: set KERAS_BACKEND to tensorflow or torch"
        )
    experiment.data.require_root()
    model, size = experiment.model, experiment.image_size
    # Before an image is read. The backbone of a trained run may be gone from where it was loaded.
    if model.backbone is None:
        plan_model(experiment, num_classes=2)
    elif command != "test" and asked is None:
        plan_model(experiment, 2, plan_backbone(model.backbone, find_source(model.backbone, KERAS), size))
    require("keras", "keras")
    return experiment, config


def command_parser(command: str) -> ExplainingParser:
    parser = framework_free_parser(
        f"keras-reference {command}", "YAML files and flags describe the experiment; flags override files."
    )
    if command == "fit":
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="last: resume the run whose config.yaml is given by -c, or the experiment's newest, after its last "
            "whole epoch.",
        )
    if command == "features":
        parser.add_argument("--output", type=str, default="features.npz", help="arrays train, train_labels, val, ...")
    return parser
