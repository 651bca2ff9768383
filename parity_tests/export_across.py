"""A run of one framework as a file for the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keras_reference import transfer
from keras_reference.backend import prepare_keras
from keras_reference.export import export_model
from keras_reference.export import outputs_of as outputs_of_keras
from keras_reference.weights import load_tensors as load_into_keras
from keras_reference.weights import network_tensors as keras_tensors
from lightning_vgg.experiment.keras_support import refuse_unimplemented
from lightning_vgg.experiment.network_plan import PlannedLayer
from lightning_vgg.experiment.recipe import BatchNorm
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.training.export import load_classifier
from lightning_vgg.training.graphs import export_graph, outputs_of
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.weights import load_tensors, network_tensors
from lightning_vgg.weights.export_arguments import ExportRequest
from lightning_vgg.weights.pretrained import recorded_pretrained


def export_for_keras(request: ExportRequest) -> Path:
    """Write a ``.keras`` file of a run that Lightning has trained.

    Raises:
        ExperimentError: the network has parts that the Keras reference does not have.
    """
    model = load_classifier(request.run)
    experiment = request.experiment
    # What concerns its training, or speed alone, is no part of the file.
    spec = replace(
        model.spec, semantics="keras", semantics_except=[], channels_last=True, compile=False, other_kernels=False
    )
    trainer = replace(experiment.trainer, precision="32-true")
    refuse_unimplemented(replace(experiment, model=spec, trainer=trainer))
    prepare_keras("32-true", experiment.seed_everything)
    semantics = model.spec.resolved_semantics
    blocks = {
        name: tuple(_with_epsilon(each, semantics) for each in layers) for name, layers in model.plan.blocks.items()
    }
    pretrained = model.pretrained
    if pretrained is not None:
        layers = tuple(_with_epsilon(each, pretrained.plan.semantics) for each in pretrained.plan.layers)
        pretrained = replace(pretrained, plan=replace(pretrained.plan, layers=layers), tensors=None)
    network = transfer.Network(replace(model.plan, blocks=blocks), pretrained, request.experiment.image_size)
    load_into_keras(str(request.run.path), network.tensors(), network_tensors(model.network))
    return export_model(request, network, outputs_of(model, request))


def export_for_torch(request: ExportRequest, network: transfer.Network) -> Path:
    """Write an ONNX file or an exported program of a run that Keras has trained, whose network is ``network``."""
    experiment = request.experiment
    spec = replace(experiment.model, semantics="keras", semantics_except=[], init_from=None)
    pretrained = recorded_pretrained(spec.backbone, request.experiment.image_size, request.run)
    model = VGGClassifier(replace(experiment, model=spec), network.plan.num_classes, pretrained)
    load_tensors(str(request.run.path), model.network, keras_tensors(network.tensors()))
    return export_graph(request, model.eval(), outputs_of_keras(network, request))


def _with_epsilon(planned: PlannedLayer, semantics: Semantics) -> PlannedLayer:
    """With batch norm's epsilon written out, as the run was trained with."""
    if not isinstance(planned.layer, BatchNorm) or planned.layer.epsilon is not None:
        return planned
    return replace(planned, layer=replace(planned.layer, epsilon=semantics.batch_norm_epsilon))
