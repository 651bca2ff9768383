"""A pretrained backbone: ``keras.applications.VGG16``, or the lower blocks of a run of this project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_reference.blocks import build_layer
from keras_reference.data import Preprocess, normalizer
from keras_reference.resize import Resize
from keras_reference.weights import NeutralTensor, layer_variables, load_tensors
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import BackbonePlan
from lightning_vgg.experiment.semantics import KERAS
from lightning_vgg.experiment.specs import BackboneSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.pretrained import (
    FIRST_KERNEL,
    Pretrained,
    Readers,
    Tensors,
    file_sha256,
    read_pretrained,
    read_weights_file,
)

IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{IMAGENET_FILE}"
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"
"""What ``keras.applications.VGG16(weights="imagenet", include_top=False)`` loads."""


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
        self.layers = _vgg16(self.plan) if self.plan.is_vgg16 else _own_blocks(self.plan)
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
                yield NeutralTensor(f"backbone.{name}", variable, bgr=self.bgr and name == FIRST_KERNEL)

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

    def __call__(self, inputs: Any, fed: int, frozen: int, end: int | None = None) -> Any:
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

    def pool(self, hidden: Any) -> Any:
        """What of the last layer's output (B, H, W, C) goes up to the head, (B, H, W, C) or (B, 1, 1, C)."""
        if len(hidden.shape) == 2:
            return keras.layers.Reshape((1, 1, hidden.shape[-1]))(hidden)
        pools = {"average": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
        return pools[self.plan.pooling](keepdims=True)(hidden) if self.plan.pooling in pools else hidden


def load_pretrained(spec: BackboneSpec, image_size: int) -> Pretrained:
    """:func:`lightning_vgg.weights.pretrained.read_pretrained` by Keras."""
    readers = Readers("keras", _download, _refuse_pth, _read_checkpoint)
    pretrained = read_pretrained(spec, image_size, KERAS, readers)
    if pretrained.plan.semantics != KERAS:
        raise ExperimentError(
            f"model.backbone.weights: {spec.weights} was trained with torch's semantics, in part or wholly; the Keras "
            "reference builds Keras's layers alone: name a run with semantics: keras"
        )
    return pretrained


def _vgg16(plan: BackbonePlan) -> list[keras.layers.Layer]:
    vgg16 = keras.applications.VGG16(include_top=False, weights=None, input_shape=(None, None, 3))
    return [vgg16.get_layer(planned.name) for planned in plan.layers]


def _own_blocks(plan: BackbonePlan) -> list[keras.layers.Layer]:
    return [build_layer(planned) for planned in plan.layers]


def _download(name: str) -> tuple[Tensors, str, str]:
    """Keras's copy of the original network, from its cache or the network, for images in BGR."""
    if name != "IMAGENET1K_FEATURES":
        raise ExperimentError(
            f"model.backbone.weights: Keras has no {name}, which torchvision trained anew; IMAGENET1K_FEATURES is the "
            "original network, which both have. Or name a .safetensors file of torchvision's weights"
        )
    try:
        path = Path(keras.utils.get_file(IMAGENET_FILE, IMAGENET_URL, cache_subdir="models", file_hash=IMAGENET_MD5))
    except Exception as error:  # it raises bare ones
        raise ExperimentError(
            f"model.backbone.weights: {name} cannot be downloaded ({error}). Fetch {IMAGENET_URL} on a machine with a "
            "network and put it into ~/.keras/models; or name a file by --model.backbone.weights"
        ) from None
    return read_weights_file(path), file_sha256(path), "keras_caffe"


def _refuse_pth(path: Path) -> Tensors:
    raise ExperimentError(
        f"model.backbone.weights: {path} is a pickle of torch, which the Keras reference does not read: save the state "
        "dict by safetensors.torch.save_file, and name that file"
    )


def _read_checkpoint(run: RunFolder) -> tuple[Tensors, Path]:
    from keras_reference.export import best_weights

    return best_weights(run), run.checkpoint("best")
