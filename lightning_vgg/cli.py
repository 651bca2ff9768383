"""``lightning-vgg COMMAND``: finds the command and loads only what it needs."""

from __future__ import annotations

import difflib
import importlib
import sys

from lightning_vgg.common.errors import ExperimentError, explain_bug
from lightning_vgg.common.interruption import SIGNALS, Interrupted

COMMANDS = {
    "fit": ("lightning_vgg.commands.training", "train, then test the best checkpoint"),
    "validate": ("lightning_vgg.commands.training", "evaluate a checkpoint on the validation images"),
    "test": ("lightning_vgg.commands.training", "evaluate a checkpoint on the test images"),
    "predict": ("lightning_vgg.training.predict", "name the class of image files, by a run"),
    "show": ("lightning_vgg.commands.show", "pictures: layers, filters, activations, mistakes, Grad-CAM"),
    "features": ("lightning_vgg.commands.features", "write what a backbone makes of all images"),
    "export": ("lightning_vgg.commands.export", "write a run's weights as a file that both frameworks start from"),
    "compare": ("lightning_vgg.compare.runner", "train arms over several seeds, and report how they compare"),
    "report": ("lightning_vgg.report.inputs", "report how runs compare: verdicts, curves, speed, in one HTML file"),
    "dashboard": ("lightning_vgg.report.dashboard", "build the W&B project's workspace and report"),
    "tune": ("lightning_vgg.tune.search", "search the best settings of an experiment with Optuna"),
    "parity": ("parity_tests.command", "measure how far Lightning and Keras lie apart on an experiment"),
}
"""Command -> its module, which has main(command, args), and what the help says."""


def main() -> None:
    SIGNALS.install()
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command; returns the exit status.

    2 where the user has something to mend, 1 for a bug of this project, 143 or 130 where a signal stopped it.
    """
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    command, *rest = args
    try:
        if command not in COMMANDS:
            guess = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"there are {', '.join(COMMANDS)}"
            raise ExperimentError(f"unknown command {command!r}; {hint}")
        importlib.import_module(COMMANDS[command][0]).main(command, rest)
    except ExperimentError as error:
        print(f"lightning-vgg: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"lightning-vgg: {stop}", file=sys.stderr)
        return stop.status
    except Exception as error:
        print(f"lightning-vgg: {explain_bug(error)}", file=sys.stderr)
        return 1
    return 0


def overview() -> str:
    lines = [f"  {command:<10}{text}" for command, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lightning-vgg COMMAND ...",
            "",
            "VGG networks from recipes, trained with PyTorch Lightning.",
            "",
            *lines,
            "",
            "lightning-vgg COMMAND --help tells more. To begin:",
            "  lightning-vgg fit -c configs/quickstart.yaml",
        ]
    )
