"""Settings of the Python API -> the arguments of a command line: one parser reads both, so both can do the same."""

from __future__ import annotations

import os
from collections.abc import Mapping

import yaml

Settings = str | os.PathLike[str] | Mapping[str, object]
"""A YAML file, or settings by their dotted names: ``{"model.network.filters": [16, 32]}``."""


def as_arguments(*settings: Settings) -> list[str]:
    """What one would write on the command line.

    As there, names win over files wherever they stand, and later ones over earlier ones.

    Args:
        settings: YAML files, and mappings from dotted names to plain values, paths or run folders.

    >>> as_arguments("vgg.yaml", {"model.network.filters": [16, 32], "data.root": None, "trainer.logger": False})
    ['-c', 'vgg.yaml', '--model.network.filters=[16, 32]', '--data.root=null', '--trainer.logger=false']
    """
    arguments: list[str] = []
    for each in settings:
        if isinstance(each, Mapping):
            arguments += [f"--{name}={_as_text(value)}" for name, value in each.items()]
        else:
            arguments += ["-c", os.fspath(each)]
    return arguments


def _as_text(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    # A scalar's YAML ends with a line "...".
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).split("\n")[0]
