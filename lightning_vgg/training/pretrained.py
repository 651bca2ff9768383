"""Where a backbone's weights come from: torchvision's downloads, a file, or a run of this project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.backbone_plan import BackbonePlan
from lightning_vgg.experiment.semantics import Semantics
from lightning_vgg.experiment.specs import BackboneSpec
from lightning_vgg.images.preprocessing import NAMED_WEIGHTS
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.pretrained import Pretrained, Readers, file_sha256, read_pretrained
from lightning_vgg.weights.published import Tensors, from_torch_names


def load_pretrained(spec: BackboneSpec, image_size: int, semantics: Semantics) -> Pretrained:
    """:func:`lightning_vgg.weights.pretrained.read_pretrained` by torch and torchvision."""
    return read_pretrained(spec, image_size, semantics, Readers("lightning", _download, _read_pth, _read_checkpoint))


def _download(name: str, plan: BackbonePlan) -> tuple[Tensors, str, str]:
    """torchvision's weights, from torch's cache or the network, the file's sha256, and what they expect of pixels."""
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    weights = get_model_weights(plan.application)[name]
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
    return from_torch_names(str(path), as_arrays(state), plan), _verify(path, weights.url), NAMED_WEIGHTS[name]


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


def _read_pth(path: Path, plan: BackbonePlan) -> Tensors:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything, KeyError included
        reason = str(error).split("\n")[0]
        raise ExperimentError(
            f"model.backbone.weights: {path} holds no state dict of plain tensors: {reason}"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ExperimentError(f"model.backbone.weights: {path} holds no state dict of plain tensors")
    return from_torch_names(str(path), as_arrays(state), plan)


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """float32, or float64 where they were that."""
    return {
        name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()
        for name, tensor in state.items()
        if tensor.is_floating_point()
    }


def _read_checkpoint(run: RunFolder) -> tuple[Tensors, Path]:
    path = run.checkpoint("best")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return as_arrays({name.removeprefix("network."): tensor for name, tensor in state.items()}), path
