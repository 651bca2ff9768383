"""Packages that only one command needs are extras of the installation: ``pip install 'lightning-vgg[tune]'``."""

from __future__ import annotations

import importlib.util

from lightning_vgg.common.errors import ExperimentError


def require(package: str, extra: str) -> None:
    """Require a package, without importing it.

    Args:
        package: its name when it is imported.
        extra: of this project, which brings it.

    Raises:
        ExperimentError: says what to install.
    """
    if importlib.util.find_spec(package) is None:
        raise ExperimentError(f"{package} is not installed; pip install 'lightning-vgg[{extra}]'")
