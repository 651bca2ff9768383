"""The best weights of a run: as a network, and as the neutral file; and weights that no run has trained yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.weights import network_tensors
from lightning_vgg.weights.neutral import write_neutral
from lightning_vgg.weights.pretrained import recorded_pretrained


def export_run(run: RunFolder, output: Path | None) -> Path:
    """Write the neutral file of a run's best weights, into its folder where no other file is named."""
    output = output or run.path / "weights.safetensors"
    write_neutral(output, network_tensors(load_classifier(run).network))
    return output


def load_classifier(run: RunFolder, which: Literal["best", "last"] = "best") -> VGGClassifier:
    """The trained network of a run, on the CPU and in evaluation mode.

    Raises:
        ExperimentError: the run has no sound checkpoint, or was trained by Keras.
    """
    if run.read_record().get("framework") == "keras":
        raise ExperimentError(
            f"{run.path} was trained by Keras: `keras-reference export {run.path}` writes its weights to a file that "
            "fit takes by --model.init_from"
        )
    experiment = _without_start(read_experiment(run.path / "config.yaml"))  # the checkpoint holds every tensor
    pretrained = recorded_pretrained(experiment.model.backbone, experiment.image_size, run)
    model = VGGClassifier(experiment, len(run.read_record()["class_names"]), pretrained)
    checkpoint = torch.load(run.checkpoint(which), map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def fresh_tensors(experiment: ExperimentSpec, num_classes: int) -> dict[str, np.ndarray]:
    """The tensors of a network as the experiment's seed draws them, float32; a backbone has its pretrained weights.

    Raises:
        ExperimentError: the network cannot be built, or its backbone's weights cannot be loaded.
    """
    torch.manual_seed(experiment.seed_everything)
    return network_tensors(VGGClassifier(_without_start(experiment), num_classes).network)


def _without_start(experiment: ExperimentSpec) -> ExperimentSpec:
    return replace(experiment, model=replace(experiment.model, init_from=None))
