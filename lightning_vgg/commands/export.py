"""``lightning-vgg export RUN``: a run's best weights as a file, or the network itself."""

from __future__ import annotations

from lightning_vgg.api import write_export
from lightning_vgg.weights.export_arguments import read_export_request


def main(command: str, args: list[str]) -> None:
    print(write_export(read_export_request(f"lightning-vgg {command}", args)))
