"""The experiments that come with the package: YAML files that are found by their path below ``configs/``."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_vgg.common.nearest import nearest_path

FOLDER = "configs"


def shipped_configs() -> Path:
    """The folder of the shipped experiments: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    installed = package / FOLDER
    return installed if installed.is_dir() else package.parent / FOLDER


def shipped_names() -> list[str]:
    """The paths of all of them below that folder, such as ``vgg/base.yaml``, sorted."""
    folder = shipped_configs()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def find_config(path: str | os.PathLike[str]) -> Path:
    """The file that a user means by a path: one of the user's own, or else a shipped one.

    Args:
        path: of a shipped one, below ``configs/`` and with or without these letters: ``vgg/base.yaml``.

    Returns:
        The path as it is where neither exists: reading the file reports that it is missing.
    """
    path = Path(path)
    name = _below_folder(path)
    return shipped_configs() / name if name in shipped_names() and not path.exists() else path


def nearest_config(path: str | os.PathLike[str]) -> str | None:
    """The shipped name that is most like a path, for a hint; None where none is near."""
    return nearest_path(_below_folder(Path(path)), shipped_names(), "/")


def _below_folder(path: Path) -> str:
    return (path.relative_to(FOLDER) if path.parts[:1] == (FOLDER,) else path).as_posix()
