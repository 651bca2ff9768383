"""``lightning-vgg configs``: the experiments that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.shipped import shipped_configs, shipped_names


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(
        f"lightning-vgg {command}",
        "List the experiments that come with the package. Each can be given by its path: "
        "lightning-vgg fit -c vgg/base.yaml. An overlay changes the experiment before it: "
        "-c vgg/base.yaml -c vgg/vgg16.yaml.",
    )
    parser.add_argument("--copy", type=Path, metavar="DIR", help="copy them into this folder, to be edited")
    folder = parser.read(args).copy
    print(overview() if folder is None else copy_configs(folder))


def overview() -> str:
    """A line for each: its path, and what it is for, from its first line."""
    names = shipped_names()
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {purpose(shipped_configs() / name)}" for name in names)


def purpose(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def copy_configs(folder: Path) -> Path:
    """Copy all of them into a folder, which is created if necessary.

    Raises:
        ExperimentError: one of the files is there already, so that nothing was copied, or the folder cannot be written.
    """
    there = [name for name in shipped_names() if (folder / name).exists()]
    if there:
        raise ExperimentError(
            f"nothing was copied, since {folder} has files that would be overwritten: {', '.join(there)}; "
            "name another folder, or move them away"
        )
    try:
        for name in shipped_names():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shipped_configs() / name, folder / name)
    except OSError as error:
        raise ExperimentError(f"{folder}: {error.strerror}") from None
    return folder
