"""A few weights of every tensor after each step, and all of them at the end: what twins are compared by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightning_vgg.runs.folder import RunFolder, atomic_write

VARIABLE = "LIGHTNING_VGG_TRACE"
"""The environment variable that makes a training keep its trace, in FILE in the run folder."""
FILE = "trace.npz"
SAMPLED = 16
"""Numbers of each tensor, evenly spread."""

Tensors = Mapping[str, np.ndarray]


def is_wanted() -> bool:
    return VARIABLE in os.environ


@dataclass(frozen=True)
class Trace:
    """What a training has kept.

    Attributes:
        samples: tensor -> its sample after each step, float64 (steps, SAMPLED or fewer).
        last: all tensors, after the last epoch that is in it.
    """

    samples: dict[str, np.ndarray]
    last: dict[str, np.ndarray]


class WeightTrace:
    """Keeps the trace of a training; ``rows`` holds the samples of each step, all tensors one after the other."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self._widths: dict[str, int] = {}

    def add(self, tensors: Tensors) -> None:
        """After a step; names are those of the neutral file."""
        samples = {name: _sample(tensor) for name, tensor in sorted(tensors.items())}
        self._widths = {name: len(sample) for name, sample in samples.items()}
        self.rows.append(np.concatenate([*samples.values()]))

    def write(self, run: RunFolder, last: Tensors | None = None) -> None:
        ends = np.cumsum([*self._widths.values()])
        samples = np.split(np.array(self.rows), ends[:-1], axis=1)
        arrays = {f"sampled/{name}": values for name, values in zip(self._widths, samples, strict=True)}
        arrays |= {f"last/{name}": values for name, values in (last or {}).items()}
        with atomic_write(run.path / FILE) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def resume(self, run: RunFolder, steps: int) -> None:
        """Take over what a stopped training kept of its first steps."""
        samples = read_trace(run).samples
        self._widths = {name: values.shape[1] for name, values in samples.items()}
        self.rows = list(np.concatenate([*samples.values()], axis=1)[:steps])


def read_trace(run: RunFolder) -> Trace:
    with np.load(run.path / FILE) as arrays:
        found = {
            kind: {name.partition("/")[2]: arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}
            for kind in ("sampled", "last")
        }
    return Trace(found["sampled"], found["last"])


def _sample(tensor: np.ndarray) -> np.ndarray:
    places = np.linspace(0, tensor.size - 1, min(SAMPLED, tensor.size)).astype(int)
    return tensor.reshape(-1)[places].astype(np.float64)
