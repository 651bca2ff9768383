"""Where a backbone's weights come from: torchvision's downloads, a file, or a run of this project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_vgg.experiment.backbone import BackbonePlan, find_source, plan_backbone, recorded_source
from lightning_vgg.experiment.batches import Normalization
from lightning_vgg.experiment.errors import ExperimentError
from lightning_vgg.experiment.preprocessing import NAMED_WEIGHTS, PREPROCESSING
from lightning_vgg.experiment.pretrained import (
    Tensors,
    file_sha256,
    from_torch_names,
    read_safetensors,
    read_weights_file,
    to_rgb,
)
from lightning_vgg.experiment.runs import RunFolder
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import BackboneSpec


@dataclass(frozen=True)
class Pretrained:
    """A backbone before it is built.

    Attributes:
        plan: its layers.
        tensors: parameters and statistics, ``block1_conv1.weight`` and so on; None: as initialized.
        normalization: that the weights expect; None: that of the training images.
        description: what run.json says of it.
    """

    plan: BackbonePlan
    tensors: Tensors | None
    normalization: Normalization | None
    description: dict[str, Any]


def load_pretrained(spec: BackboneSpec, image_size: int, semantics: Semantics) -> Pretrained:
    """Find, fetch and read the weights of a backbone.

    Args:
        spec: the backbone.
        image_size: as the images are stored.
        semantics: those of the experiment.

    Raises:
        ExperimentError: the weights cannot be had, do not fit, or come without their preprocessing.
    """
    source = find_source(spec, semantics)
    plan = plan_backbone(spec, source, image_size)
    path = Path(spec.weights).expanduser()
    tensors: Tensors | None = None
    convention: str = spec.preprocessing or "cifar"
    normalization = PREPROCESSING[convention].normalization
    weights, sha256 = spec.weights, None
    match source.kind:
        case "named":
            convention = NAMED_WEIGHTS[spec.weights]
            normalization = PREPROCESSING[convention].normalization
            tensors, sha256 = _download(spec.weights)
        case "file":
            weights, sha256 = path.name, file_sha256(path)
            tensors = _read_pth(path) if path.suffix in (".pth", ".pt") else read_weights_file(path)
        case "run":
            run = RunFolder.open(path)
            weights, convention = f"{path.resolve().parent.name}/{path.resolve().name}", "its own"
            record = run.read_record()["normalization"]
            normalization = Normalization(tuple(record["mean"]), tuple(record["std"]))
            tensors, sha256 = _read_run(run, plan)
    if tensors is not None and convention in PREPROCESSING and PREPROCESSING[convention].bgr:
        tensors = to_rgb(tensors)
    description = {
        "weights": weights,
        "weights_sha256": sha256,
        "preprocessing": convention,
        "layer": spec.layer,
        "pooling": spec.pooling,
        "image_size": plan.image_size,
        "freeze_until": spec.freeze_until,
        "unfreeze": spec.unfreeze,
        **source.describe(),
    }
    return Pretrained(plan, tensors, normalization, description)


def recorded_pretrained(spec: BackboneSpec, image_size: int, run: RunFolder) -> Pretrained:
    """The backbone of a trained run, whose checkpoints hold the weights: the files it came from may be gone."""
    record = run.read_record()
    normalization = Normalization(tuple(record["normalization"]["mean"]), tuple(record["normalization"]["std"]))
    plan = plan_backbone(spec, recorded_source(record["backbone"]), image_size)
    return Pretrained(plan, None, normalization, record["backbone"])


def _download(name: str) -> tuple[Tensors, str]:
    """torchvision's weights, from torch's cache or the network, and the file's sha256."""
    from torchvision.models import VGG16_Weights  # type: ignore[import-untyped]

    weights = VGG16_Weights[name]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / weights.url.rpartition("/")[2]
    if path.exists():
        _verify(path, weights.url)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:  # no network, or a download that is cut short
        raise ExperimentError(
            f"model.backbone.weights: {name} cannot be downloaded ({error}). Fetch {weights.url} on a machine with a "
            f"network and put it, as {path.name}, into {folder}; or name a file by --model.backbone.weights"
        ) from None
    return from_torch_names(str(path), as_arrays(state)), _verify(path, weights.url)


def _verify(path: Path, url: str) -> str:
    """The file's sha256, whose beginning stands in torchvision's file names."""
    sha256 = file_sha256(path)
    beginning = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if beginning is not None and not sha256.startswith(beginning[1]):
        raise ExperimentError(
            f"model.backbone.weights: {path} is damaged: its sha256 begins with {sha256[:8]}, not with {beginning[1]}. "
            f"Remove it, and it is fetched again from {url}"
        )
    return sha256


def _read_pth(path: Path) -> Tensors:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything, KeyError included
        reason = str(error).split("\n")[0]
        raise ExperimentError(
            f"model.backbone.weights: {path} holds no state dict of plain tensors: {reason}"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ExperimentError(f"model.backbone.weights: {path} holds no state dict of plain tensors")
    return from_torch_names(str(path), as_arrays(state))


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """float32, or float64 where they were that."""
    return {
        name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def _read_run(run: RunFolder, plan: BackbonePlan) -> tuple[Tensors, str]:
    """The layers of a run's best checkpoint, or of the exported weights of one that Keras trained."""
    if run.read_record().get("framework") == "lightning":
        path = run.checkpoint("best")
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        tensors = as_arrays({name.removeprefix("network."): tensor for name, tensor in state.items()})
    else:
        path = run.path / "weights.safetensors"
        if not path.is_file():
            raise ExperimentError(
                f"model.backbone.weights: {run.path} was not trained by Lightning: write its weights as a file first: "
                f"keras-reference export {run.path}"
            )
        tensors = read_safetensors(path)
    ours: Tensors = {}
    for layer, original in zip(plan.layers, plan.source.layers, strict=False):
        for prefix in (f"{original.name}.", f"backbone.{layer.name}."):
            ours |= {
                f"{layer.name}.{name.removeprefix(prefix)}": tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
    return ours, file_sha256(path)
