"""The best weights of a run: as a network, and as a file."""

from __future__ import annotations

import importlib
from pathlib import Path

import keras
import numpy as np

from keras_reference.backend import prepare_keras
from keras_reference.blocks import gelu
from keras_reference.dropout import Dropout, SpatialDropout
from keras_reference.trained_runs import require_keras
from keras_reference.transfer import Network
from keras_reference.weights import load_network, network_tensors
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.export_arguments import ExportRequest
from lightning_vgg.weights.neutral import write_neutral
from lightning_vgg.weights.pretrained import FIRST_KERNEL, recorded_pretrained
from lightning_vgg.weights.verified_export import Classify, write_verified


def export_run(request: ExportRequest) -> Path:
    """Write the best weights of a run that Keras has trained as a file; for torch by the package that sees both
    frameworks.
    """
    network = load_classifier(request.run)
    if request.format in ("onnx", "torch-export"):
        return importlib.import_module("parity_tests.export_across").export_for_torch(request, network)
    expected = outputs_of(network, request)
    if request.format == "keras":
        return export_model(request, network, expected)

    def read(path: Path) -> Classify:
        again = load_classifier(request.run)
        load_network(again.tensors(), path)
        return outputs_of(again, request)

    tensors = network_tensors(network.tensors())
    return write_verified(
        request.output, request.image_shape, expected, lambda path: write_neutral(path, tensors), read
    )


def outputs_of(network: Network, request: ExportRequest) -> Classify:
    """What a trained network makes of images, as the file is to do it."""
    model, preprocess = network.model(), network.preprocess(request.normalization)

    def classify(images: np.ndarray) -> np.ndarray:
        logits = model(preprocess(images), training=False)
        return np.asarray(keras.ops.softmax(logits) if request.with_preprocessing else logits)

    return classify


def export_model(request: ExportRequest, network: Network, expected: Classify) -> Path:
    """Write a ``.keras`` file of Keras's own layers alone: RGB images, normalized or as they are, in.

    Args:
        request: what to write.
        network: with the run's weights; its layers change.
        expected: by the run itself; see `write_verified`.
    """
    model = _of_own_layers(network, request)
    normalization = request.normalization

    def read(path: Path) -> Classify:
        loaded = keras.saving.load_model(path)
        mean, std = (np.array(values, keras.config.floatx()) for values in (normalization.mean, normalization.std))
        return lambda images: np.asarray(
            loaded(images if request.with_preprocessing else (images - mean) / std, training=False)
        )

    return write_verified(request.output, request.image_shape, expected, lambda path: model.save(path), read)


def _of_own_layers(network: Network, request: ExportRequest) -> keras.Model:
    layers, size = keras.layers, request.image_shape[0]
    backbone, normalization = network.backbone, request.normalization
    if backbone is not None and backbone.bgr:  # reads RGB from here on, like every other
        (kernel,) = [tensor for tensor in backbone.tensors() if tensor.name == f"backbone.{FIRST_KERNEL}"]
        kernel.variable.assign(np.array(kernel.variable)[:, :, ::-1])
    images = keras.Input(request.image_shape, dtype="uint8" if request.with_preprocessing else None, name="images")
    hidden = images
    if request.with_preprocessing:
        variance = [value**2 for value in normalization.std]
        hidden = layers.Normalization(mean=list(normalization.mean), variance=variance, name="normalization")(hidden)
    if backbone is not None:
        if backbone.plan.image_size != size:
            new_size = backbone.plan.image_size
            hidden = layers.Resizing(new_size, new_size, interpolation="bilinear", name="resize")(hidden)
        for layer in backbone.layers:
            hidden = _own(layer)(hidden)
        hidden = backbone.pool(hidden)
    for layer in network.head.layers:
        if not isinstance(layer, layers.InputLayer):
            hidden = _own(layer)(hidden)
    outputs = layers.Softmax(name="probabilities")(hidden) if request.with_preprocessing else hidden
    return keras.Model(images, outputs, name=request.run.path.parent.name)


def _own(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer as Keras has it: without masks that two frameworks share."""
    if getattr(layer, "activation", None) is gelu:
        layer.activation = keras.activations.gelu
    match layer:
        case SpatialDropout():
            return keras.layers.SpatialDropout2D(layer.rate, name=layer.name)
        case Dropout():
            return keras.layers.Dropout(layer.rate, name=layer.name)
    return layer


def load_classifier(run: RunFolder) -> Network:
    """The trained network of a run, in the precision it was trained in.

    Raises:
        ExperimentError: the run has no best checkpoint, or was not trained by Keras.
    """
    require_keras(run)
    experiment, record = read_experiment(run.path / "config.yaml"), run.read_record()
    model, size = experiment.model, experiment.image_size
    pretrained = recorded_pretrained(model.backbone, size, run)
    prepare_keras(record["precision"], record["seed"])
    plan = plan_model(experiment, len(record["class_names"]), pretrained.plan if pretrained else None)
    network = Network(plan, pretrained, size)
    network.model().load_weights(run.checkpoint("best"))
    return network
