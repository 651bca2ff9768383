"""A backbone's features: of the layers that never train, computed once and cached; and of all layers, as arrays."""

from __future__ import annotations

import keras
import numpy as np

from keras_reference.backend import device_name, prepare_keras
from keras_reference.pretrained import load_pretrained
from keras_reference.transfer import Backbone
from keras_reference.weights import network_tensors
from lightning_vgg.experiment.specs import DataSpec, ExperimentSpec
from lightning_vgg.images.dataset import Dataset, load_dataset
from lightning_vgg.images.sources import cache_folder
from lightning_vgg.weights.feature_store import LabelledFeatures, remember_backbone_features, require_backbone


def kept_features(
    precision: str, backbone: Backbone, layers: int, data: DataSpec, dataset: Dataset, part: str
) -> np.ndarray:
    """What the lowest layers of the backbone make of a part's images, (N, ..., C); kept in the cache.

    Args:
        precision: as trainer.precision.
        backbone: with its weights.
        layers: how many of its layers.
        data: where features are kept.
        dataset: the images.
        part: train, val or test.
    """
    dtype = np.dtype(keras.config.floatx())
    images, normalization = dataset.parts[part].images, dataset.normalization
    lowest = {layer.name for layer in backbone.plan.layers[:layers]}
    preprocess = backbone.preprocess(normalization, dtype.name)
    extractor = backbone.extractor(layers)

    def compute(rows: slice) -> np.ndarray:
        return extractor.predict_on_batch(preprocess(images[rows])).astype(dtype)

    return remember_backbone_features(
        cache_folder(data.cache_dir),
        backbone.plan,
        layers,
        network_tensors(tensor for tensor in backbone.tensors() if tensor.name.split(".")[1] in lowest),
        images,
        normalization,
        dtype,
        compute,
        part,
        framework=f"keras on {keras.config.backend()}",
        precision=precision,
        device=device_name(),
    )


def backbone_features(experiment: ExperimentSpec) -> dict[str, LabelledFeatures]:
    """Of each part that has images; see :func:`keras_reference.extract_features`."""
    size, precision = experiment.data.image_size, experiment.trainer.precision
    pretrained = load_pretrained(require_backbone(experiment.model), size, experiment.model.resolved_semantics)
    dataset = load_dataset(experiment.data, pretrained.normalization)
    prepare_keras(precision, experiment.seed_everything)
    backbone = Backbone(pretrained, size)
    layers = len(pretrained.plan.layers)
    return {
        name: LabelledFeatures(kept_features(precision, backbone, layers, experiment.data, dataset, name), part.labels)
        for name, part in dataset.parts.items()
        if len(part.labels)
    }
