"""``lightning-vgg port model.keras``: a Keras model as an experiment of this project, with proof that it is one."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.settings import as_yaml
from lightning_vgg.experiment.specs import NetworkSpec, OptimizerSpec
from lightning_vgg.runs.folder import atomic_write
from lightning_vgg.weights.neutral import write_neutral

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from keras_reference.porting import PortedModel
    from parity_tests.any_pair import PairReport


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(
        f"lightning-vgg {command}",
        "Port a Keras model: write an experiment and its weights, after checking in float64 that logits, gradients and "
        "steps of the optimizer are those of the model. Exit status 1, and nothing written, if they are not.",
    )
    parser.add_argument("model", help="a .keras or .h5 file, or module:function that returns a model")
    parser.add_argument("--classes", type=int, help="put Flatten and a fresh dense layer of so many units on the model")
    parser.add_argument("--output", type=Path, help="folder to write to; by default the name of the model")
    parser.add_argument(
        "--images", type=Path, nargs="+", help="compare on these image files; by default on random ones"
    )
    options = parser.read(args)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # measured on the CPU, where both compute in true float64
    require("tensorflow", "keras")
    folder = options.output or Path(Path(options.model.rpartition(":")[2]).stem)
    if (folder / "experiment.yaml").exists():
        raise ExperimentError(f"{folder / 'experiment.yaml'} exists: name another folder with --output")

    from keras_reference.porting import with_classifier
    from parity_tests.pair_command import print_report
    from parity_tests.user_models import load_keras_model

    model = load_keras_model(options.model)
    if options.classes is not None:
        model = with_classifier(model, options.classes)
    ported, report = port_keras_model(model, folder, options.images)
    print_report(report, "The ported experiment and the Keras model")
    for note in ported.notes:
        print(f"note: {note}")
    if not report.passed:
        print("nothing is written", file=sys.stderr)
        sys.exit(1)
    print(f"{len(ported.plan.layers)} layers, {ported.plan.trainable_parameters:,} trainable parameters")
    print(f"train it further   lightning-vgg fit -c {folder / 'experiment.yaml'}")


def port_keras_model(
    model: keras.Model, folder: str | os.PathLike[str], images: Sequence[Path] | None = None
) -> tuple[PortedModel, PairReport]:
    """Port a Keras model: write an experiment and its weights, if the comparison of both passes.

    Args:
        model: a chain of known layers, compiled or not.
        folder: gets ``experiment.yaml`` and ``weights.safetensors``.
        images: files to compare on; by default random images.

    Returns:
        What was read, and how the two compare; where ``passed`` is false nothing is written.

    Raises:
        ExperimentError: the model cannot be ported; the layer is named.
    """
    from keras_reference.porting import port_model
    from parity_tests.port_proof import pixels_of, prove

    ported = port_model(model)
    report = prove(model, ported, pixels_of(ported.plan, images))
    if report.passed:
        write_port(ported, Path(folder))
    return ported, report


def _set(spec: NetworkSpec | OptimizerSpec, *always: str) -> PlainDict:
    """The settings that are not the default ones, and ``always`` these."""
    usual = asdict(type(spec)())
    return {name: value for name, value in asdict(spec).items() if name in always or value != usual[name]}


def write_port(ported: PortedModel, folder: Path) -> None:
    """Write ``experiment.yaml`` and ``weights.safetensors``; the first says what of the model is not kept."""
    mean, std = ported.normalization
    model: PlainDict = {"network": _set(ported.network, "conv_block", "filters", "dense_block", "units")}
    if ported.optimizer is not None:
        model["optimizer"] = _set(ported.optimizer, "name", "learning_rate")
    if ported.label_smoothing:
        model["label_smoothing"] = ported.label_smoothing
    weights = folder / "weights.safetensors"
    size, _, channels = ported.plan.input_shape
    settings: PlainDict = {
        "experiment": folder.name,
        "model": {**model, "semantics": "keras", "init_from": str(weights)},
        "data": {"image_size": size, "mean": list(mean), "std": list(std)},
    }
    if channels == 1:
        settings["data"]["grayscale"] = True
    if ported.clip is not None:
        settings["trainer"] = {"gradient_clip_val": ported.clip}
    notes = "".join(f"# {note}\n" for note in ported.notes)
    folder.mkdir(parents=True, exist_ok=True)
    write_neutral(weights, ported.weights())
    with atomic_write(folder / "experiment.yaml") as file:
        file.write(f"# Ported from Keras.\n{notes}{as_yaml(settings)}".encode())
