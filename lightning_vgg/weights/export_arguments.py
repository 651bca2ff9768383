"""What ``export`` is asked for, by the command line of either program or by a function."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.dataset import recorded_normalization
from lightning_vgg.runs.folder import RunFolder

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2", "keras": ".keras"}
"""Format -> the end of its file's name."""


@dataclass(frozen=True)
class ExportRequest:
    """A run's best weights as one file.

    Attributes:
        run: of either framework.
        format: one of `SUFFIXES`.
        output: the file.
        with_preprocessing: whether the network in the file takes uint8 images (B, S, S, 3) as they are, and returns
            probabilities; else it takes what it was trained on, and returns logits.
    """

    run: RunFolder
    format: str
    output: Path
    with_preprocessing: bool

    @property
    def normalization(self) -> Normalization:
        """Of the pixels the run was trained on."""
        return recorded_normalization(self.run)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C) of the images as they are stored."""
        return self.experiment.image_size, self.experiment.image_size, self.experiment.data.channels

    @cached_property
    def experiment(self) -> ExperimentSpec:
        return read_experiment(self.run.path / "config.yaml")


def export_request(
    run: str | os.PathLike[str] | RunFolder,
    output: str | os.PathLike[str] | None,
    format: str | None,
    with_preprocessing: bool,
) -> ExportRequest:
    """Settle format and file: each follows from the other where it is not given.

    Raises:
        ExperimentError: there is no such run, the two contradict each other, or a package is missing.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    path = None if output is None else Path(output)
    if format is not None and format not in SUFFIXES:
        raise ExperimentError(f"--format {format}: known are {', '.join(SUFFIXES)}")
    if path is not None:
        implied = next((name for name, suffix in SUFFIXES.items() if suffix == path.suffix), None)
        if implied is None:
            known = ", ".join(f"{suffix} ({name})" for name, suffix in SUFFIXES.items())
            raise ExperimentError(f"--output {path}: name a file that ends in {known}")
        if format not in (None, implied):
            raise ExperimentError(f"--output {path} is the name of a file of {implied}, but --format is {format}")
        format = implied
    format = format or "safetensors"
    if with_preprocessing and format == "safetensors":
        raise ExperimentError(
            "--with-preprocessing: a safetensors file holds weights alone; name another --format: onnx, torch-export "
            "or keras"
        )
    if format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package, "onnx")
    stem = "weights" if format == "safetensors" else "model"
    return ExportRequest(folder, format, path or folder.path / f"{stem}{SUFFIXES[format]}", with_preprocessing)


def read_export_request(program: str, args: list[str]) -> ExportRequest:
    """The request of a command line of either program."""
    parser = CommandParser(
        program,
        "Write a run's best weights as one file, after checking that the file computes what the run does: safetensors, "
        "from which both frameworks can start; or the network itself for ONNX, torch.export or Keras.",
    )
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--format", help=f"{', '.join(SUFFIXES)}; by default what --output ends in, else safetensors")
    parser.add_argument("--output", type=Path, help="default: weights.safetensors or model.* in the run folder")
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="the network takes uint8 images (batch, height, width, 3) and returns probabilities; by default "
        "normalized images and logits",
    )
    arguments = parser.read(args)
    return export_request(arguments.run, arguments.output, arguments.format, arguments.with_preprocessing)
