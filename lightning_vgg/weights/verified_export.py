"""A file is called exported only after it has computed what the run computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightning_vgg.common.errors import ExperimentError

Classify = Callable[[np.ndarray], np.ndarray]
"""uint8 images (B, S, S, C) -> logits or probabilities (B, classes)."""

_BATCHES = 3, 5
"""Images in each batch that is tried: more than one size, since the file has to take any."""
_TOLERANCE = 1e-4
"""Of the largest value: a hundred times what float32 differs by between frameworks in one forward pass."""


def write_verified(
    path: Path,
    shape: tuple[int, int, int],
    expected: Classify,
    write: Callable[[Path], None],
    read: Callable[[Path], Classify],
) -> Path:
    """Write beside ``path``, read it again, compare, and move it into place; returns the path.

    Args:
        path: the file; one that is there stays as it is until the new one is right.
        shape: (S, S, C), of random images that are compared.
        expected: by the run itself.
        write: writes the file.
        read: loads it as others would.

    Raises:
        ExperimentError: the file computes something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    random = np.random.default_rng(0)
    try:
        write(temporary)
        found = read(temporary)
        for count in _BATCHES:
            images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
            theirs, ours = found(images), expected(images)
            apart = np.abs(theirs - ours).max() if theirs.shape == ours.shape else np.inf
            if not apart <= _TOLERANCE * np.abs(ours).max():
                raise ExperimentError(
                    f"{path} was not written: for {count} random images its output differs from the run's by "
                    f"{apart:.1e}, where {np.abs(ours).max():.1e} is the largest value"
                )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
