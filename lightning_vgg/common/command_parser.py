"""An argparse parser whose errors are those of this project: one line, with the nearest flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """Of commands that read no experiment."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)

    def read(self, args: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments of a command.

        Raises:
            ExperimentError: one is missing, unknown or invalid.
        """
        found, unknown = self.parse_known_args(args)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise ExperimentError(f"unknown argument {unknown[0]}{did_you_mean(unknown[0], flags)}")
        return found

    def error(self, message: str) -> NoReturn:
        raise ExperimentError(message)
