"""What trains a trial: this side, or the Keras reference. A study knows neither."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from lightning_vgg.runs.folder import RunFolder, Watch

Framework = Literal["lightning", "keras"]

ENGINES: dict[Framework, str] = {
    "lightning": "lightning_vgg.tune.lightning_engine",
    "keras": "keras_reference.engine",
}


class Engine(Protocol):
    """A module with these functions; importing it loads no framework."""

    def check(self, specs: Any) -> None:
        """Raise ExperimentError for settings that it would not train: ``.model``, ``.data``, ``.trainer``."""

    def train(self, config: Path, watch: Watch | None) -> RunFolder:
        """Train a config.yaml in a new run folder: watched and untested, or, without watch, tested at the end."""


def find_engine(framework: Framework) -> Engine:
    return cast(Engine, importlib.import_module(ENGINES[framework]))
