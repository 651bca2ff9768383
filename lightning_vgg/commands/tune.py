"""``lightning-vgg tune -c EXPERIMENT.yaml``: search the best settings, or train the best found."""

from __future__ import annotations

from lightning_vgg.tune.search import tune
from lightning_vgg.tune.spec import tune_parser


def main(command: str, args: list[str]) -> None:
    tune(tune_parser(f"lightning-vgg {command}"), args)
