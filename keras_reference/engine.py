"""Trials of a study (``lightning-vgg tune --framework keras``) trained by Keras."""

from __future__ import annotations

from lightning_vgg.experiment.keras_support import refuse_unimplemented
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder, Watch

check = refuse_unimplemented


def train(experiment: ExperimentSpec, watch: Watch | None) -> RunFolder:
    """Train an experiment: watched and untested, or, without watch, tested at the end."""
    from keras_reference import module  # seconds

    return module.fit(experiment, watch)
