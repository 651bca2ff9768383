"""Where a backbone's weights come from: Keras's downloads, a file, or a run of this project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras

from keras_reference.export import load_classifier
from keras_reference.weights import network_tensors
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import BackbonePlan
from lightning_vgg.experiment.semantics import KERAS, Semantics
from lightning_vgg.experiment.specs import BackboneSpec
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.pretrained import Pretrained, Readers, file_sha256, read_pretrained
from lightning_vgg.weights.published import Tensors, read_weights_file

IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{IMAGENET_FILE}"
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"
"""What ``keras.applications.VGG16(weights="imagenet", include_top=False)`` loads."""


def load_pretrained(spec: BackboneSpec, image_size: int, semantics: Semantics = KERAS) -> Pretrained:
    """:func:`lightning_vgg.weights.pretrained.read_pretrained` by Keras."""
    readers = Readers("keras", _download, _read_pth, _read_checkpoint)
    pretrained = read_pretrained(spec, image_size, semantics, readers)
    if replace(pretrained.plan.semantics, initialization=KERAS.initialization) != KERAS:
        raise ExperimentError(
            f"model.backbone.weights: {spec.weights} was trained with torch's semantics, at least in part; the Keras "
            "reference builds only Keras's layers: name a run with semantics: keras"
        )
    return pretrained


def _download(name: str, plan: BackbonePlan) -> tuple[Tensors, str, str]:
    """Keras's copy of the original network, from its cache or the network, for images in BGR."""
    if name != "IMAGENET1K_FEATURES":
        raise ExperimentError(
            f"model.backbone.weights: Keras has no {name}, which is torchvision's own; IMAGENET1K_FEATURES is the "
            "original vgg16, which both have. Or name a .safetensors file of torchvision's weights"
        )
    try:
        path = Path(keras.utils.get_file(IMAGENET_FILE, IMAGENET_URL, cache_subdir="models", file_hash=IMAGENET_MD5))
    except Exception as error:  # it raises bare ones
        raise ExperimentError(
            f"model.backbone.weights: {name} cannot be downloaded ({error}). Fetch {IMAGENET_URL} on a machine with a "
            "network and put it into ~/.keras/models; or name a file by --model.backbone.weights"
        ) from None
    return read_weights_file(path, plan), file_sha256(path), "keras_caffe"


def _read_pth(path: Path, plan: BackbonePlan) -> Tensors:
    raise ExperimentError(
        f"model.backbone.weights: {path} is a torch pickle, which the Keras reference does not read: save the state "
        "dict with safetensors.torch.save_file, and name that file"
    )


def _read_checkpoint(run: RunFolder) -> tuple[Tensors, Path]:
    return network_tensors(load_classifier(run).tensors()), run.checkpoint("best")
