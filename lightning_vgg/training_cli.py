"""``lightning-vgg fit | validate | test`` on LightningCLI."""

from __future__ import annotations

from typing import Any

from lightning_vgg.experiment.config import framework_free_parser

SUBCOMMANDS = ("fit", "validate", "test")

_HELP_EPILOG = """\
Every other argument of lightning.pytorch.Trainer is understood, too, such as --trainer.devices 2.
"""


def main(command: str, args: list[str]) -> None:
    if "-h" in args or "--help" in args:
        parser = framework_free_parser(f"lightning-vgg {command}", "YAML files and flags say what; flags win.")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=_CKPT_HELP[command])
        parser.epilog = _HELP_EPILOG
        parser.print_help()
        return
    from lightning_vgg.experiment_cli import run_command

    run_command(command, args)


_RUN_HELP = "A checkpoint, or best or last of the run whose config.yaml is given by -c."
_CKPT_HELP: dict[str, Any] = {
    "fit": "Go on with this checkpoint, in its own run folder; last is that of the experiment's newest run.",
    "validate": _RUN_HELP,
    "test": _RUN_HELP,
}
