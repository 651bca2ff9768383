"""A torch network's tensors to and from the neutral file, whose names and layouts they have already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_vgg.weights.neutral import check_tensors, read_neutral


def network_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and batch-norm statistics, copied, under their neutral names."""
    return {name: tensor.detach().cpu().contiguous().numpy().copy() for name, tensor in _tensors(network).items()}


def load_tensors(source: str, network: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    """Assign the values.

    Raises:
        ExperimentError: one is missing, unknown or misshapen; ``source`` says whose.
    """
    check_tensors(source, values, _shapes(network))
    _assign(network, values)


def load_network(network: nn.Module, path: Path) -> None:
    """Start from the tensors of a neutral file.

    Raises:
        ExperimentError: the file does not fit; every tensor at fault is named.
    """
    _assign(network, read_neutral(path, _shapes(network)))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The network's own, without torch's counters of batches, of which Keras has none."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _tensors(network).items()}


def _assign(network: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    state = _tensors(network)
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(torch.from_numpy(value))
