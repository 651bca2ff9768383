"""Which trained run a command means, and whether Keras trained it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.parsing import config_files
from lightning_vgg.experiment.settings import refuse_changes
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder


def trained_run(experiment: ExperimentSpec, args: Sequence[str], resumes: bool) -> RunFolder:
    """The run whose config.yaml is given, or else the newest of the experiment.

    Raises:
        ExperimentError: there is none, Lightning trained it, or settings or backend are not those it began with.
    """
    files = config_files(args)
    if files and (files[-1].parent / "checkpoints").is_dir():
        run = RunFolder.open(files[-1].parent)
    else:
        run = RunFolder.newest(experiment.root, experiment.experiment, experiment.name, trained=not resumes)
    if run.read_record() or not resumes:  # empty where it was stopped before it began
        require_keras(run)
    if resumes:
        backend = run.read_record().get("backend")
        if backend not in (None, os.environ["KERAS_BACKEND"]):
            raise ExperimentError(f"{run.path} was started with Keras on {backend}: set KERAS_BACKEND={backend}")
        refuse_changes(run.path / "config.yaml", experiment, vars(experiment.trainer), resuming=True)
    return run


def require_keras(run: RunFolder) -> None:
    """Raise ExperimentError for a run that Keras has not trained."""
    framework = run.read_record().get("framework")
    if framework != "keras":
        raise ExperimentError(f"{run.path} was trained by {framework or 'nothing yet'}, not by Keras")
