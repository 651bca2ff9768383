"""What trains a trial: this side, or the Keras reference. A study knows neither."""

from __future__ import annotations

import importlib
from typing import Literal, Protocol, cast

from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder, Watch

Framework = Literal["lightning", "keras"]

ENGINES: dict[Framework, str] = {"lightning": "lightning_vgg.tune.lightning_engine", "keras": "keras_reference.engine"}


class Engine(Protocol):
    """A module with these functions; importing it loads no framework."""

    def check(self, experiment: ExperimentSpec) -> None:
        """Raise ExperimentError for settings that it would not train."""

    def train(self, experiment: ExperimentSpec, watch: Watch | None) -> RunFolder:
        """Train in a new run folder: watched and untested, or, without watch, tested at the end."""


def find_engine(framework: Framework) -> Engine:
    return cast(Engine, importlib.import_module(ENGINES[framework]))
