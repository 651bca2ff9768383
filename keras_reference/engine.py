"""Trials of a study (``lightning-vgg tune --framework keras``) trained by Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_reference.config import read_experiment, refuse_unimplemented
from lightning_vgg.runs.folder import RunFolder, Watch


def check(specs: Any) -> None:
    """Raises:
    ExperimentError: Keras would ignore a setting.
    """
    refuse_unimplemented(specs.model, specs.trainer)


def train(config: Path, watch: Watch | None) -> RunFolder:
    """Train a config.yaml: watched and untested, or, without watch, tested at the end."""
    from keras_reference import module as train  # seconds

    return train.fit(read_experiment("fit", ["-c", str(config)]), watch)
