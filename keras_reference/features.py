"""Features of the layers that never train, computed once and kept."""

from __future__ import annotations

import keras
import numpy as np

from keras_reference.backend import device_name
from keras_reference.transfer import Backbone
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.dataset import Dataset, Split
from lightning_vgg.images.sources import cache_folder
from lightning_vgg.weights.feature_store import describe_features, features_batch_size, remember_features


class Features:
    """What the lowest ``layers`` of a backbone make of each part of a data set, (N, H, W, C).

    Args:
        backbone: with its weights.
        layers: how many of its layers.
        data: where features are kept.
        dataset: the images.
        precision: as trainer.precision.
    """

    def __init__(self, backbone: Backbone, layers: int, data: DataSpec, dataset: Dataset, precision: str) -> None:
        self.backbone = backbone
        self.layers = layers
        self.data = data
        self.dataset = dataset
        self.precision = precision

    def of(self, part: Split, label: str) -> np.ndarray:
        """They are computed where they are not kept; ``label`` names the part beside the progress bar."""
        plan, normalization = self.backbone.plan, self.dataset.normalization
        lowest = {layer.name for layer in plan.layers[: self.layers]}
        tensors = {
            tensor.name: tensor.read() for tensor in self.backbone.tensors() if tensor.name.split(".")[1] in lowest
        }
        description = describe_features(
            plan,
            self.layers,
            tensors,
            part.images,
            normalization,
            framework=f"keras on {keras.config.backend()}",
            precision=self.precision,
            device=device_name(),
        )
        dtype = np.dtype(keras.config.floatx())
        preprocess = self.backbone.preprocess(normalization, dtype.name)
        extractor = self.backbone.extractor(self.layers)
        shape = (len(part.labels), *plan.features_shape(self.layers))

        def compute(rows: slice) -> np.ndarray:
            return extractor.predict_on_batch(preprocess(part.images[rows])).astype(dtype)

        return remember_features(
            cache_folder(self.data.cache_dir),
            description,
            shape,
            dtype,
            compute,
            features_batch_size(plan.image_size),
            label=f"features of {label}",
        )
