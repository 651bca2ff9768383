"""``lightning-vgg features -c EXPERIMENT.yaml``: the backbone's features of all images, as one file."""

from __future__ import annotations

from pathlib import Path

from lightning_vgg.experiment.parsing import experiment_spec, framework_free_parser
from lightning_vgg.weights.feature_store import write_features


def main(command: str, args: list[str]) -> None:
    parser = framework_free_parser(f"lightning-vgg {command}", "Write the backbone's features of all images.")
    parser.add_argument("--output", type=str, default="features.npz", help="arrays train, train_labels, val, ...")
    config = parser.read(args)
    from lightning_vgg.training.features import backbone_features  # loads torch

    write_features(Path(config.output), backbone_features(experiment_spec(config)))
    print(config.output)
