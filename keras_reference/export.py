"""A run's best weights as the neutral file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.neutral import write_neutral
from lightning_vgg.weights.pretrained import recorded_pretrained


def export_run(run: RunFolder, output: Path | None) -> Path:
    """Write the neutral file of a run's best weights, into its folder where no other file is named."""
    output = output or run.path / "weights.safetensors"
    write_neutral(output, best_weights(run))
    return output


def require_keras(run: RunFolder) -> None:
    """Raise ExperimentError for a run that Keras has not trained."""
    framework = run.read_record().get("framework")
    if framework != "keras":
        raise ExperimentError(f"{run.path} was trained by {framework or 'nothing yet'}, not by Keras")


def best_weights(run: RunFolder) -> dict[str, np.ndarray]:
    """The tensors of a run's best checkpoint, in the precision they were trained in."""
    require_keras(run)
    from keras_reference.backend import prepare_keras
    from keras_reference.network import Network

    config, record = read_experiment(run.path / "config.yaml"), run.read_record()
    pretrained = recorded_pretrained(config.model.backbone, config.data.image_size, run)
    prepare_keras(record["precision"], record["seed"])
    plan = plan_model(
        config.model, config.data.image_size, len(record["class_names"]), pretrained.plan if pretrained else None
    )
    network = Network(plan, pretrained, config.data.image_size)
    network.model().load_weights(run.checkpoint("best"))
    return network.read()
