"""The best weights of a run: as a network, and as the neutral file."""

from __future__ import annotations

from pathlib import Path

from keras_reference.backend import prepare_keras
from keras_reference.config import require_keras
from keras_reference.transfer import Network
from keras_reference.weights import network_tensors
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.parsing import read_config
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.neutral import write_neutral
from lightning_vgg.weights.pretrained import recorded_pretrained


def export_run(run: RunFolder, output: Path | None) -> Path:
    """Write the neutral file of a run's best weights, into its folder where no other file is named."""
    output = output or run.path / "weights.safetensors"
    write_neutral(output, network_tensors(load_classifier(run).tensors()))
    return output


def load_classifier(run: RunFolder) -> Network:
    """The trained network of a run, in the precision it was trained in.

    Raises:
        ExperimentError: the run has no best checkpoint, or was not trained by Keras.
    """
    require_keras(run)
    config, record = read_config(run.path / "config.yaml"), run.read_record()
    size = config.data.image_size
    pretrained = recorded_pretrained(config.model.backbone, size, run)
    prepare_keras(record["precision"], record["seed"])
    plan = plan_model(config.model, size, len(record["class_names"]), pretrained.plan if pretrained else None)
    network = Network(plan, pretrained, size)
    network.model().load_weights(run.checkpoint("best"))
    return network
