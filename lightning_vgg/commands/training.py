"""``lightning-vgg fit | validate | test`` on LightningCLI."""

from __future__ import annotations

import itertools

from lightning_vgg.api import train_or_test
from lightning_vgg.experiment.parsing import UnknownKey, experiment_parser, framework_free_parser

_HELP_EPILOG = "All other arguments of lightning.pytorch.Trainer are accepted, too, such as --trainer.devices 2."
_RUN_HELP = "A checkpoint file, or best or last: of the run whose config.yaml is given by -c."
_CKPT_HELP = {
    "fit": "Continue from this checkpoint, in its own run folder; last: that of the experiment's newest run.",
    "validate": _RUN_HELP,
    "test": _RUN_HELP,
}


def main(command: str, args: list[str]) -> None:
    if "-h" in args or "--help" in args:
        parser = framework_free_parser(
            f"lightning-vgg {command}", "YAML files and flags describe the experiment; flags override files."
        )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=_CKPT_HELP[command])
        parser.epilog = _HELP_EPILOG
        parser.read(args)
    refuse_early(args)
    train_or_test(command, args)


def refuse_early(args: list[str]) -> None:
    """Name what is wrong with the experiment before the seconds in which torch is loaded.

    What only LightningCLI understands is left to LightningCLI.

    Raises:
        ExperimentError: a setting cannot be, or the network cannot be built.
    """
    if any(arg.startswith("--print_config") for arg in args):  # nothing will be built
        return
    try:
        config = experiment_parser().read(_of_experiment(args))
    except UnknownKey:  # LightningCLI knows more, and so the nearest one
        return
    config.data.require_root()
    if config.model.backbone is None:
        from lightning_vgg.experiment.backbone_plan import plan_model
        from lightning_vgg.experiment.specs import ExperimentSpec

        plan_model(ExperimentSpec(model=config.model, data=config.data), num_classes=2)


def _of_experiment(args: list[str]) -> list[str]:
    """Without the flags that are LightningCLI's own."""
    kept: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, equals, _ = arg.partition("=")
        if name in _FLAGS or name.startswith(("--model", "--data")):
            kept += [arg] if equals else [arg, *itertools.islice(rest, 1)]
    return kept


_FLAGS = {"-c", "--config", "--seed_everything", "--experiment", "--name", "--report"}
