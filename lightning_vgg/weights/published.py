"""Published weights of the VGG family: torchvision's and Keras's names and layouts, from files of every kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import FAMILY, BackbonePlan, named_layers
from lightning_vgg.experiment.network_plan import Shape, plan_network
from lightning_vgg.experiment.recipe import BatchNorm, Conv, Dense
from lightning_vgg.weights.neutral import check_tensors, read_safetensors

Tensors = dict[str, np.ndarray]

KEY = "model.backbone.weights"
"""Of the experiment: what errors name."""


@dataclass(frozen=True)
class PublishedTensor:
    """A tensor of a network among `FAMILY`.

    Attributes:
        ours: its name here, with Keras's name of the layer: block1_conv1.weight.
        torchvision: its name in ``torchvision.models``: features.0.weight.
        shape: torch's.
        pixels: where its columns count flattened pixels, their (H, W, C).
    """

    ours: str
    torchvision: str
    shape: tuple[int, ...]
    pixels: Shape | None = None

    @property
    def keras(self) -> str:
        """block1_conv1.kernel."""
        layer, _, role = self.ours.rpartition(".")
        return f"{layer}.kernel" if role == "weight" and len(self.shape) > 1 else self.ours

    @property
    def keras_shape(self) -> tuple[int, ...]:
        """(height, width, in, out), (in, out) or (out,)."""
        return (*self.shape[2:], *self.shape[1::-1]) if len(self.shape) > 1 else self.shape

    def from_keras(self, value: np.ndarray) -> np.ndarray:
        """In torch's layout, float32."""
        if self.pixels is not None:
            value = value.reshape(*self.pixels, -1).transpose(2, 0, 1, 3).reshape(value.shape)
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        return np.ascontiguousarray(value, dtype=np.float32)


def published_tensors(plan: BackbonePlan) -> list[PublishedTensor]:
    """Those of all convolutions of the plan's network, whatever part of them it uses, and of its own dense layers.

    torchvision numbers the layers of ``features``, where an activation is one of its own, and of ``classifier``, where
    dropout and an activation stand between two.
    """
    assert plan.application is not None
    network = replace(FAMILY[plan.application], units=plan.fully_connected)
    found: list[PublishedTensor] = []
    index = 0
    whole = plan_network(network, plan.image_size if plan.fully_connected else 224, num_classes=1)
    for name, planned in named_layers(whole):
        channels = planned.input_shape[-1]
        match planned.layer:
            case Conv(kernel=kernel, activation=activation):
                shapes = {"weight": (planned.width, channels, kernel, kernel), "bias": (planned.width,)}
                found += _of_layer(name, f"features.{index}", shapes)
                index += activation != "linear"
            case BatchNorm():
                roles = ("weight", "bias", "running_mean", "running_var")
                found += _of_layer(name, f"features.{index}", dict.fromkeys(roles, (channels,)))
            case Dense():
                number = int(name.removeprefix("fc"))
                shapes = {"weight": (planned.width, channels), "bias": (planned.width,)}
                tensors = _of_layer(name, f"classifier.{3 * (number - 1)}", shapes)
                pixels = whole.flattened_layers().get(planned.name)
                found += [replace(tensors[0], pixels=pixels), tensors[1]]
        index += 1
    return found


def _of_layer(ours: str, theirs: str, shapes: Mapping[str, tuple[int, ...]]) -> list[PublishedTensor]:
    return [PublishedTensor(f"{ours}.{role}", f"{theirs}.{role}", shape) for role, shape in shapes.items()]


def read_weights_file(path: Path, plan: BackbonePlan) -> Tensors:
    """The layers of the plan's network from a .safetensors file with torch's names or a .h5 file with Keras's.

    Raises:
        ExperimentError: the file cannot be read, or a tensor is missing, unknown, misshapen or not finite.
    """
    if path.suffix == ".h5":
        return from_keras_names(str(path), _read_h5(path, plan), plan)
    return from_torch_names(str(path), read_safetensors(path, KEY), plan)


def from_torch_names(source: str, tensors: Mapping[str, np.ndarray], plan: BackbonePlan) -> Tensors:
    """From the state dict of torchvision's network; of its classifier, what the plan uses, if anything.

    Raises:
        ExperimentError: a tensor is at fault; ``source`` says whose.
    """
    published = published_tensors(plan)
    wanted = {each.torchvision: each.shape for each in published}
    left_out = ("classifier.", "num_batches_tracked")
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted or not (name.startswith(left_out[0]) or name.endswith(left_out[1]))
    }
    check_tensors(source, tensors, wanted)
    return {each.ours: tensors[each.torchvision].astype(np.float32) for each in published}


def from_keras_names(source: str, tensors: Mapping[str, np.ndarray], plan: BackbonePlan) -> Tensors:
    """From the variables of a network of keras.applications: block1_conv1.kernel (3, 3, in, out), block1_conv1.bias.

    Raises:
        ExperimentError: a tensor is at fault; ``source`` says whose.
    """
    published = published_tensors(plan)
    wanted = {each.keras: each.keras_shape for each in published}
    tensors = {name: tensor for name, tensor in tensors.items() if name in wanted or not name.startswith("fc")}
    check_tensors(source, tensors, wanted)
    return {each.ours: each.from_keras(tensors[each.keras]) for each in published}


def _read_h5(path: Path, plan: BackbonePlan) -> Tensors:
    import h5py

    tensors: Tensors = {}
    layers = list(dict.fromkeys(each.ours.partition(".")[0] for each in published_tensors(plan)))

    def visit(name: str, item: Any) -> None:
        ours = _keras_name(name, layers) if isinstance(item, h5py.Dataset) else None
        if ours is not None:
            tensors[ours] = np.asarray(item)

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise ExperimentError(f"{KEY}: {path} is not an intact HDF5 file: {error}") from None
    return tensors


def _keras_name(path: str, layers: list[str]) -> str | None:
    """The layer and variable that a dataset in a .h5 file holds; None for the optimizer's and those of the classifier.

    Keras 3 counts the layers of a kind in a .weights.h5 (layers/conv2d_3/vars/0); older files have their names, and the
    variable's (block1_conv1/block1_conv1_W_1:0, block1_conv1/block1_conv1/kernel:0).
    """
    if re.search(r"(^|/)(optimizer|predictions)", path):
        return None
    counted = re.fullmatch(r"(?:_?layers)/(conv2d|dense)(?:_(\d+))?/vars/([01])", path)
    if counted is not None:
        kind = "fc" if counted[1] == "dense" else "block"
        of_kind = [layer for layer in layers if layer.startswith(kind)]
        number = int(counted[2] or 0)
        if number < len(of_kind):
            return f"{of_kind[number]}.{'kernel' if counted[3] == '0' else 'bias'}"
        return None if kind == "fc" else path
    named = re.search(
        r"(block\d_conv\d|fc\d)/(?:.*/)?(?:block\d_conv\d_|fc\d_)?(kernel|bias|W|b)(?:_\d+)?(?::0)?$", path
    )
    if named is not None:
        return f"{named[1]}.{ {'W': 'kernel', 'b': 'bias'}.get(named[2], named[2]) }"
    return path
