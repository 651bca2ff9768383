"""A torch network's tensors to and from the neutral file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_vgg.experiment.specs import ModelSpec
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.weights.neutral import read_neutral, write_neutral


def export_run(run: RunFolder, output: Path | None) -> Path:
    """Write the neutral file of a run's best weights, into its folder where no other file is named."""
    from lightning_vgg.training.module import load_classifier

    output = output or run.path / "weights.safetensors"
    write_neutral(output, network_tensors(load_classifier(run).network))
    return output


def network_tensors(network: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and batch-norm statistics, copied, under their neutral names."""
    return {
        name: tensor.detach().cpu().contiguous().numpy().copy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def fresh_tensors(spec: ModelSpec, image_size: int, num_classes: int, seed: int) -> dict[str, np.ndarray]:
    """The tensors of a network as ``seed`` draws them, float32; a backbone has its own weights, as ever.

    Raises:
        ExperimentError: the network cannot be built, or its backbone's weights cannot be loaded.
    """
    from lightning_vgg.training.module import VGGClassifier

    torch.manual_seed(seed)
    return network_tensors(VGGClassifier(replace(spec, init_from=None), image_size, num_classes).network)


def load_network(network: nn.Module, path: Path) -> None:
    """Start from the tensors of a neutral file.

    Raises:
        ExperimentError: the file does not fit; every tensor at fault is named.
    """
    state = network.state_dict()
    shapes = {name: tuple(state[name].shape) for name in state if not name.endswith("num_batches_tracked")}
    with torch.no_grad():
        for name, tensor in read_neutral(path, shapes).items():
            state[name].copy_(torch.from_numpy(tensor))
