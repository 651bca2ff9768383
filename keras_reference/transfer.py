"""Transfer learning: a pretrained backbone, and what of it is frozen when."""

from __future__ import annotations

import math
from collections.abc import Iterator

import keras
import numpy as np

from keras_reference.backend import Tensor
from keras_reference.blocks import build_layer, build_network
from keras_reference.data import Preprocess, normalizer
from keras_reference.dropout import Classifier
from keras_reference.optim import ParameterGroup
from keras_reference.weights import NeutralTensor, layer_variables, load_tensors, model_tensors
from lightning_vgg.experiment.backbone_plan import BackbonePlan
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.recipe import Dense
from lightning_vgg.experiment.semantics import KERAS, Semantics
from lightning_vgg.images.batches import Normalization
from lightning_vgg.weights.pretrained import FIRST_KERNEL, Pretrained

_PARAMETERS = ("kernel", "bias", "gamma", "beta")


class Backbone:
    """Pretrained layers under Keras's names.

    Attributes:
        plan: what they are.
        image_size: of the images that come in, in pixels.
        layers: Keras's, from the images up.
    """

    def __init__(self, pretrained: Pretrained, image_size: int) -> None:
        self.plan = pretrained.plan
        self.image_size = image_size
        self.bgr = pretrained.description["preprocessing"] == "keras_caffe"
        self.layers = _layers(self.plan)
        self.resize = Resize(self.plan.image_size)
        self(self.inputs(), fed=0, frozen=0)  # layers make their variables when they first see a shape
        if pretrained.tensors is not None:
            used = {f"backbone.{name}": value for name, value in pretrained.tensors.items() if self._uses(name)}
            load_tensors(pretrained.description["weights"], list(self.tensors()), used)

    def _uses(self, tensor: str) -> bool:
        return tensor.partition(".")[0] in {layer.name for layer in self.plan.layers}

    def tensors(self) -> Iterator[NeutralTensor]:
        """``backbone.block1_conv1.weight`` and so on."""
        for planned, layer in zip(self.plan.layers, self.layers, strict=True):
            for end, variable in layer_variables(planned, layer):
                name = f"{planned.name}.{end}"
                pixels = self.plan.flattened.get(planned.name) if end == "weight" else None
                yield NeutralTensor(f"backbone.{name}", variable, pixels, bgr=self.bgr and name == FIRST_KERNEL)

    def preprocess(self, normalization: Normalization, dtype: str) -> Preprocess:
        """What the weights expect of pixels, by Keras's own function where it has one."""
        if not self.bgr:
            return normalizer(normalization, dtype)
        # It changes floats in place, and astype gives it some of its own.
        return lambda images: keras.applications.vgg16.preprocess_input(images.astype(dtype))

    def freeze(self, layers: int) -> None:
        """Let all but the lowest ``layers`` train."""
        for number, layer in enumerate(self.layers):
            layer.trainable = number >= layers

    def inputs(self, fed: int = 0) -> keras.KerasTensor:
        """What comes in where ``fed`` layers have run already."""
        shape = self.plan.features_shape(fed) if fed else (self.image_size, self.image_size, 3)
        return keras.Input(shape, name="images")

    def __call__(self, inputs: Tensor, fed: int, frozen: int, end: int | None = None) -> Tensor:
        """The layers behind the lowest ``fed``, pooled at the end; dropout among the lowest ``frozen`` is left out.

        Keras turns frozen batch norms to inference mode by itself. Dropout it leaves on in ``model.fit``, also where a
        layer was called with ``training=False``: the model's own mode wins.
        """
        hidden = inputs if fed else self.resize(inputs)
        end = len(self.layers) if end is None else end
        for number, layer in enumerate(self.layers[fed:end], start=fed):
            if number >= frozen or not isinstance(layer, keras.layers.Dropout):
                hidden = layer(hidden)
        return self.pool(hidden) if end == len(self.layers) and fed < end else hidden

    def extractor(self, layers: int) -> keras.Model:
        """Images -> what the lowest ``layers`` make of them in inference mode."""
        images = self.inputs()
        return keras.Model(images, self(images, 0, layers, layers))

    def pool(self, hidden: Tensor) -> Tensor:
        """What of the last layer's output (B, H, W, C) goes up to the head, (B, H, W, C) or (B, 1, 1, C)."""
        if len(hidden.shape) == 2:
            return keras.layers.Reshape((1, 1, hidden.shape[-1]))(hidden)
        pools = {"average": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
        return pools[self.plan.pooling](keepdims=True)(hidden) if self.plan.pooling in pools else hidden


def _layers(plan: BackbonePlan) -> list[keras.layers.Layer]:
    """Those of keras.applications, where it has the network."""
    applications = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}
    application = applications.get(plan.application or "")
    network = application and application(include_top=False, weights=None, input_shape=(None, None, 3))
    return [
        FlattenedDense(planned.width, activation=planned.layer.activation, name=planned.name)
        if isinstance(planned.layer, Dense)
        else network.get_layer(planned.name)
        if network
        else build_layer(planned, plan.semantics)
        for planned in plan.layers
    ]


class FlattenedDense(keras.layers.Dense):  # type: ignore[misc]
    """``keras.layers.Dense`` that flattens its inputs first, as fc1 of keras.applications after its ``Flatten``."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build((None, math.prod(size for size in input_shape[1:] if size is not None)))
        self.input_spec = None

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return super().call(keras.ops.reshape(inputs, (-1, self.kernel.shape[0])), training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.units)


class Resize(keras.layers.Layer):  # type: ignore[misc]
    """Images (B, S, S, C) -> (B, size, size, C) by ``keras.ops.image.resize``, in float32 or float64.

    TensorFlow's rounds to float32 whatever comes in; in float64 two matrix products give what it means.
    """

    def __init__(self, size: int) -> None:
        super().__init__(name="resize", dtype=keras.config.floatx())
        self.size = size

    def call(self, images: Tensor) -> Tensor:
        if images.shape[1] == self.size:
            return images
        if self.compute_dtype != "float64":
            return keras.ops.image.resize(images, (self.size, self.size), interpolation="bilinear", antialias=False)
        rows, columns = (
            keras.ops.convert_to_tensor(interpolation_matrix(side, self.size)) for side in images.shape[1:3]
        )
        return keras.ops.einsum("ih,bhwc,jw->bijc", rows, images, columns)


def interpolation_matrix(size: int, new_size: int) -> np.ndarray:
    """Linear interpolation along one axis, float64 (new_size, size).

    Output i lies at (i + 1/2) · size / new_size - 1/2 between the inputs; beyond the first and the last one they go on.
    """
    place = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    below = np.minimum(place.astype(int), max(size - 2, 0))
    matrix = np.zeros((new_size, size))
    matrix[np.arange(new_size), below] += 1 - (place - below)
    matrix[np.arange(new_size), np.minimum(below + 1, size - 1)] += place - below
    return matrix


class Network:
    """All layers of an experiment, which its models share.

    Attributes:
        plan: of the recipes' network.
        head: that network.
        backbone: what it stands on.
    """

    def __init__(
        self, plan: NetworkPlan, pretrained: Pretrained | None, image_size: int, semantics: Semantics = KERAS
    ) -> None:
        self.plan = plan
        self.head = build_network(plan, semantics)  # first, so that its random start does not depend on the backbone
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
        return Classifier(inputs, self.head(self.backbone(inputs, fed, frozen)))

    def preprocess(self, normalization: Normalization) -> Preprocess:
        """uint8 images to what the network reads."""
        dtype = keras.config.floatx()
        return self.backbone.preprocess(normalization, dtype) if self.backbone else normalizer(normalization, dtype)

    def tensors(self) -> Iterator[NeutralTensor]:
        """All variables that the neutral file holds."""
        if self.backbone is not None:
            yield from self.backbone.tensors()
        yield from model_tensors(self.head, self.plan)


def parameter_groups(network: Network, plan: BackbonePlan, steps: int) -> list[ParameterGroup]:
    """The head, and whatever of the backbone trains sooner or later, at a rate and from a step of its own.

    Args:
        network: its layers.
        plan: which of them train when.
        steps: of an epoch.
    """
    assert network.backbone is not None
    groups = [ParameterGroup(network.head.trainable_variables)]
    for (start, factor), layers in plan.trained_groups().items():
        # By name, since Keras counts nothing as trainable that is frozen now.
        variables = [
            variable
            for layer in layers
            for variable in network.backbone.layers[layer].variables
            if variable.name in _PARAMETERS
        ]
        if variables:
            groups.append(ParameterGroup(variables, factor, start * steps))
    return groups


def count_parameters(network: Network) -> dict[str, int]:
    """In all, those that train now, and those that are frozen; batch norm's statistics are none."""
    layers = [network.head, *(network.backbone.layers if network.backbone is not None else ())]
    trained = {id(variable) for layer in layers for variable in layer.trainable_variables}
    total = training = 0
    for variable in (each for layer in layers for each in layer.variables if each.name in _PARAMETERS):
        size = int(np.prod(variable.shape))
        total += size
        training += size if id(variable) in trained else 0
    return {"parameters": total, "trainable_parameters": training, "frozen_parameters": total - training}
