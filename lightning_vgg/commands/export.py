"""``lightning-vgg export RUN``: a run's best weights as the neutral file."""

from __future__ import annotations

from lightning_vgg.api import export_weights
from lightning_vgg.weights.export_arguments import run_and_output


def main(command: str, args: list[str]) -> None:
    run, output = run_and_output(f"lightning-vgg {command}", args)
    print(export_weights(run, output))
