"""Trials of a study trained by Lightning, one after the other in one process."""

from __future__ import annotations

import gc
import tempfile
from functools import partial
from pathlib import Path

from lightning_vgg.common.interruption import Interrupted
from lightning_vgg.experiment.settings import config_text
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder, Watch


def check(experiment: ExperimentSpec) -> None:
    """Whatever the specs allow, Lightning trains."""


def train(experiment: ExperimentSpec, watch: Watch | None) -> RunFolder:
    from lightning_vgg.training.lightning_cli import run_command  # seconds
    from lightning_vgg.tune.lightning_trial import TrialCLI

    cli = None if watch is None else partial(TrialCLI, watch)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yaml"
            config.write_text(config_text(experiment))
            run = run_command("fit", ["-c", str(config)], cli).run
    except Interrupted as stop:
        raise Interrupted(stop.number) from None  # a trial does not continue from its checkpoint
    finally:
        gc.collect()  # a trainer and its module refer to each other, so their memory would wait
    return run
