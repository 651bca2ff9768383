"""The skeleton of both command lines: a table of commands, errors in one line, exit statuses."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

from lightning_vgg.common.errors import ExperimentError, explain_bug
from lightning_vgg.common.interruption import SIGNALS, Interrupted
from lightning_vgg.common.nearest import or_all


@dataclass(frozen=True)
class Program:
    """A command line with subcommands; a command loads only what it needs.

    Attributes:
        name: as it is called.
        purpose: one sentence for the help.
        commands: command -> its module, which has ``main(command, args)``, and what the help says.
        closing: the last lines of the help.
    """

    name: str
    purpose: str
    commands: dict[str, tuple[str, str]]
    closing: str = ""

    def main(self) -> None:
        """The entry point of the process."""
        SIGNALS.install()
        sys.exit(self.run(sys.argv[1:]))

    def run(self, args: list[str]) -> int:
        """Run one command; returns the exit status.

        2 for an error that the user can mend, 1 for a bug of this project, 143 or 130 where a signal stopped it.
        """
        if not args or args[0] in ("-h", "--help"):
            print(self.overview())
            return 0
        command, *rest = args
        try:
            if command not in self.commands:
                raise ExperimentError(f"unknown command {command!r}{or_all(command, self.commands)}")
            importlib.import_module(self.commands[command][0]).main(command, rest)
        except ExperimentError as error:
            print(f"{self.name}: error: {error}", file=sys.stderr)
            return 2
        except Interrupted as stop:
            print(f"{self.name}: {stop}", file=sys.stderr)
            return stop.status
        except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + 13
        except Exception as error:
            print(f"{self.name}: {explain_bug(error)}", file=sys.stderr)
            return 1
        return 0

    def overview(self) -> str:
        lines = [f"  {command:<11}{text}" for command, (_, text) in self.commands.items()]
        more = f"{self.name} COMMAND --help says more. {self.closing}".rstrip()
        return "\n".join([f"usage: {self.name} COMMAND ...", "", self.purpose, "", *lines, "", more])
