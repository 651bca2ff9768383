"""The best weights of a run: as a network, and as a file; and weights that no run has trained yet."""

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
from lightning_vgg.training.graphs import export_graph, outputs_of
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.weights import load_network, network_tensors
from lightning_vgg.weights.export_arguments import ExportRequest
from lightning_vgg.weights.neutral import write_neutral
from lightning_vgg.weights.pretrained import recorded_pretrained
from lightning_vgg.weights.verified_export import Classify, write_verified


def export_run(request: ExportRequest) -> Path:
    """Write the best weights of a run that Lightning has trained as a file of torch's, or as the neutral one."""
    model = load_classifier(request.run)
    expected = outputs_of(model, request)
    if request.format != "safetensors":
        return export_graph(request, model, expected)

    def read(path: Path) -> Classify:
        again = VGGClassifier(_without_start(request.experiment), model.plan.num_classes, model.pretrained)
        load_network(again.network, path)
        return outputs_of(again.eval(), request)

    tensors = network_tensors(model.network)
    return write_verified(
        request.output, request.image_shape, expected, lambda path: write_neutral(path, tensors), read
    )


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
