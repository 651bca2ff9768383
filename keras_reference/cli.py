"""``keras-reference COMMAND``: finds the command and loads only what it needs."""

from __future__ import annotations

import sys

from keras_reference.api import run_command
from lightning_vgg.commands.export import run_and_output
from lightning_vgg.common.errors import ExperimentError, explain_bug
from lightning_vgg.common.interruption import SIGNALS, Interrupted
from lightning_vgg.weights.feature_store import write_features

COMMANDS = {
    "fit": "train in Keras, then test the best checkpoint",
    "test": "evaluate the best checkpoint of a run on the test images",
    "features": "write what a backbone makes of all images",
    "export": "write a run's weights as a file that both frameworks start from",
}


def main() -> None:
    SIGNALS.install()
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command; returns the exit status: 2 where the user has something to mend, 1 for a bug of this project."""
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    command, *rest = args
    try:
        if command not in COMMANDS:
            raise ExperimentError(f"unknown command {command!r}; there are {', '.join(COMMANDS)}")
        _run(command, rest)
    except ExperimentError as error:
        print(f"keras-reference: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"keras-reference: {stop}", file=sys.stderr)
        return stop.status
    except Exception as error:
        print(f"keras-reference: {explain_bug(error)}", file=sys.stderr)
        return 1
    return 0


def _run(command: str, args: list[str]) -> None:
    if command == "export":
        run, output = run_and_output("keras-reference export", args)
        from keras_reference.export import export_run  # loads Keras, which --help can do without

        print(export_run(run, output))
        return
    from keras_reference.config import read_features, show_help

    if "-h" in args or "--help" in args:
        show_help(command)
    elif command == "features":
        experiment, output = read_features(args)
        from keras_reference.features import backbone_features

        write_features(output, backbone_features(experiment))
        print(output)
    else:
        run_command(command, args)


def overview() -> str:
    lines = [f"  {command:<8}{text}" for command, text in COMMANDS.items()]
    return "\n".join(
        ["usage: keras-reference COMMAND ...", "", "The experiments of lightning-vgg, trained with Keras.", "", *lines]
    )
