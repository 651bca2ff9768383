"""``lightning-vgg features -c EXPERIMENT.yaml``: what a backbone makes of all images, as one file."""

from __future__ import annotations

from pathlib import Path

from lightning_vgg.experiment.parsing import framework_free_parser
from lightning_vgg.weights.feature_store import write_features


def main(command: str, args: list[str]) -> None:
    parser = framework_free_parser(f"lightning-vgg {command}", "What the backbone makes of all images, as one file.")
    parser.add_argument("--output", type=str, default="features.npz", help="arrays train, train_labels, val, ...")
    if "-h" in args or "--help" in args:
        parser.print_help()
        return
    config = parser.instantiate(parser.parse_args(args))
    from lightning_vgg.training.features import backbone_features  # loads torch, which --help can do without

    write_features(Path(config.output), backbone_features(config))
    print(config.output)
