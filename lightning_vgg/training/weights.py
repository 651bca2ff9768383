"""A torch network's tensors to and from the neutral file, whose names and layouts they have already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_vgg.weights.neutral import check_tensors, read_safetensors


def network_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and batch-norm statistics, copied, under their neutral names."""
    return {name: tensor.detach().cpu().contiguous().numpy().copy() for name, tensor in _tensors(network).items()}


def load_network(network: nn.Module, path: Path) -> None:
    """Start from the tensors of a neutral file.

    Raises:
        ExperimentError: the file cannot be read or does not fit; every tensor at fault is named.
    """
    load_tensors(str(path), network, read_safetensors(path, "model.init_from"))


def load_tensors(source: str, network: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    """Assign the values.

    Raises:
        ExperimentError: one is missing, unknown, misshapen or not finite; ``source`` says whose.
    """
    tensors = _tensors(network)
    check_tensors(source, values, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(values[name]))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The network's own, without torch's counters of batches, of which Keras has none."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
