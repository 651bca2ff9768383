"""The Keras models of one experiment: the network of its recipes, on a pretrained backbone where it has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from keras_reference.blocks import build_model
from keras_reference.data import Preprocess, normalizer
from keras_reference.optim import ParameterGroup
from keras_reference.transfer import Backbone
from keras_reference.weights import NeutralTensor, Tensors, load_tensors, model_tensors, read_tensors
from lightning_vgg.experiment.backbone_plan import BackbonePlan
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.images.batches import Normalization
from lightning_vgg.weights.neutral import read_neutral
from lightning_vgg.weights.pretrained import Pretrained

_PARAMETERS = ("kernel", "bias", "gamma", "beta")


class Network:
    """All layers of an experiment, which its models share.

    Attributes:
        plan: of the recipes' network.
        head: that network.
        backbone: what it stands on.
    """

    def __init__(self, plan: NetworkPlan, pretrained: Pretrained | None, image_size: int) -> None:
        self.plan = plan
        self.head = build_model(plan)  # first, so that the chance it starts from does not depend on the backbone
        self.backbone = Backbone(pretrained, image_size) if pretrained is not None else None

    def model(self, frozen: int = 0, fed: int = 0) -> keras.Model:
        """Images -> logits (B, classes).

        Args:
            frozen: the lowest layers of the backbone that do not train from now on.
            fed: the lowest ones that have run already: their features come instead of images.
        """
        if self.backbone is None:
            return self.head
        self.backbone.freeze(frozen)
        inputs = self.backbone.inputs(fed)
        return keras.Model(inputs, self.head(self.backbone(inputs, fed, frozen)))

    def preprocess(self, normalization: Normalization) -> Preprocess:
        """uint8 images to what the network reads."""
        dtype = keras.config.floatx()
        return self.backbone.preprocess(normalization, dtype) if self.backbone else normalizer(normalization, dtype)

    def read(self) -> Tensors:
        """All tensors under neutral names."""
        return read_tensors(self.tensors())

    def start_from(self, path: Path) -> None:
        """Assign the tensors of a neutral file.

        Raises:
            ExperimentError: the file cannot be read or does not fit; every tensor at fault is named.
        """
        shapes = {name: value.shape for name, value in self.read().items()}
        load_tensors(str(path), list(self.tensors()), read_neutral(path, shapes))

    def count_parameters(self) -> dict[str, int]:
        """In all, those that train now, and those that are frozen; batch norm's statistics are none."""
        layers = [self.head, *(self.backbone.layers if self.backbone is not None else ())]
        trained = {id(variable) for layer in layers for variable in layer.trainable_variables}
        total = training = 0
        for variable in (each for layer in layers for each in layer.variables if each.name in _PARAMETERS):
            size = int(np.prod(variable.shape))
            total += size
            training += size if id(variable) in trained else 0
        return {"parameters": total, "trainable_parameters": training, "frozen_parameters": total - training}

    def tensors(self) -> Iterator[NeutralTensor]:
        """All variables that the neutral file holds."""
        if self.backbone is not None:
            yield from self.backbone.tensors()
        yield from model_tensors(self.head, self.plan)


def trained_parts(network: Network, plan: BackbonePlan, steps: int) -> list[ParameterGroup]:
    """The head, and whatever of the backbone trains sooner or later, at a rate and from a step of its own.

    Args:
        network: its layers.
        plan: which of them train when.
        steps: of an epoch.
    """
    assert network.backbone is not None
    parts = [ParameterGroup(network.head.trainable_variables)]
    for (start, factor), layers in plan.trained_groups().items():
        # By name, since Keras counts nothing as trainable that is frozen now.
        variables = [
            variable
            for layer in layers
            for variable in network.backbone.layers[layer].variables
            if variable.name in _PARAMETERS
        ]
        if variables:
            parts.append(ParameterGroup(variables, factor, start * steps))
    return parts
