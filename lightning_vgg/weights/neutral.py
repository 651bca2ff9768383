"""The neutral weights file: safetensors with torch's names and layouts, which both frameworks write and start from.

Names are the planned layers': ``block1.conv1.weight`` (out, in, height, width), ``head1.dense1.weight`` (out, in),
``block1.batch_norm1.running_var`` and so on. Dense layers after the flatten count their inputs as (C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lightning_vgg.common.errors import ExperimentError


def write_neutral(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    from lightning_vgg.runs.folder import atomic_write

    with atomic_write(path) as file:
        file.write(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


def require_weights(init_from: str | None) -> None:
    """Raise ExperimentError if there is no such file."""
    if init_from is not None and not Path(init_from).expanduser().is_file():
        raise ExperimentError(f"model.init_from: there is no file {init_from}")


def read_safetensors(path: Path, setting: str) -> dict[str, np.ndarray]:
    """All tensors of a file, in the dtype they were written in.

    Raises:
        ExperimentError: it cannot be read; ``setting`` is the one that names it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ExperimentError(f"{setting}: {path}: {error.strerror}") from None
    except SafetensorError as error:
        raise ExperimentError(f"{setting}: {path} is not a safetensors file: {error}") from None


def check_tensors(source: str, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ExperimentError that names every tensor that does not fit, with both shapes."""
    faults = [f"{name} is missing (the network has {shape})" for name, shape in shapes.items() if name not in tensors]
    for name, tensor in sorted(tensors.items()):
        if name not in shapes:
            faults.append(f"{name} {tensor.shape} is not in the network")
        elif tensor.shape != tuple(shapes[name]):
            faults.append(f"{name} is {tensor.shape}, in the network {tuple(shapes[name])}")
        elif not np.isfinite(tensor).all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        raise ExperimentError(f"{source} does not fit the network:\n  " + "\n  ".join(faults))
