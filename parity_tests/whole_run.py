"""A short training by each side's own command line, from the same weights, compared by their histories."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.settings import config_text
from lightning_vgg.experiment.specs import ExperimentSpec, TrainerSpec
from lightning_vgg.images.dataset import Dataset
from lightning_vgg.runs.folder import MEASURED, TESTED, RunFolder
from lightning_vgg.training.export import fresh_tensors
from lightning_vgg.weights.neutral import write_neutral
from parity_tests.pair import Tensors


def histories(experiment: ExperimentSpec, dataset: Dataset, epochs: int = 1) -> tuple[Tensors, Tensors]:
    """The first two of `whole_runs`: Lightning's and Keras's."""
    with closing(whole_runs(experiment, dataset, epochs)) as found:
        return next(found), next(found)


def whole_runs(experiment: ExperimentSpec, dataset: Dataset, epochs: int = 1) -> Generator[Tensors]:
    """What Lightning, Keras, and Lightning by other kernels have measured: columns of history.csv, and the test.

    Each trains when it is asked for, in float64, dropout and augmentation as the experiment has them, on the training
    images of ``dataset``.

    Raises:
        ExperimentError: a command line failed; the message ends with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root / "images", dataset)
        places = {"root": str(root / "images"), "cache_dir": str(root / "cache")}
        weights = root / "initial.safetensors"
        experiment = ExperimentSpec(
            model=replace(experiment.model, init_from=str(weights)),
            data=replace(experiment.data, source="folder", train_images=None, **places),
            trainer=TrainerSpec(
                max_epochs=epochs,
                precision="64-true",
                accumulate_grad_batches=experiment.trainer.accumulate_grad_batches,
                logger=False,
                enable_progress_bar=False,
            ),
        )
        write_neutral(weights, fresh_tensors(experiment, len(dataset.class_names)))
        config = root / "experiment.yaml"
        config.write_text(config_text(experiment))
        # Keras follows Keras, whatever the Lightning side is set to.
        as_keras = ("--model.semantics", "keras", "--model.semantics_except", "[]")
        yield _history("lightning-vgg", "lightning", config, root)
        yield _history("keras-reference", "keras", config, root, *as_keras)
        yield _history("lightning-vgg", "other-kernels", config, root, "--model.other_kernels", "true")


def write_images(root: Path, dataset: Dataset) -> None:
    """The training and test images as an image folder."""
    for name, part in (("train", dataset.train), ("test", dataset.test)):
        images = part.images[..., 0] if part.images.shape[-1] == 1 else part.images  # as Pillow has grey ones
        for label, class_name in enumerate(dataset.class_names):
            folder = root / name / class_name
            folder.mkdir(parents=True)
            for number in np.flatnonzero(part.labels == label):
                Image.fromarray(images[number]).save(folder / f"{number:05d}.png", compress_level=1)


def run_program(program: str, arguments: list[str]) -> None:
    """Raises:
    ExperimentError: it failed.
    """
    command = [str(Path(sys.executable).parent / program), *arguments]
    result = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ExperimentError(f"{program} fit failed:\n{result.stderr[-2000:]}")


def _history(program: str, name: str, config: Path, root: Path, *flags: str) -> Tensors:
    run_program(program, ["fit", "-c", str(config), "--name", name, "--trainer.default_root_dir", str(root), *flags])
    run = RunFolder.open(root / "runs" / "vgg" / name)
    rows, record = run.read_history(), run.read_record()
    columns = {name: np.array([row[name] for row in rows if name in row]) for name in MEASURED}
    return columns | {name: np.array(record[name]) for name in TESTED}
