"""How two tensors that should be equal are related, in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SAME = 1e-9
"""Factors this near are one factor: far above rounding, far below what a wrong setting does."""

NORMALIZED = 1e-4
"""What float32 leaves of a normalization that is taken back; neighbouring grey levels lie further apart."""


def relation(ours: np.ndarray, theirs: np.ndarray, known: Mapping[str, float]) -> str:
    """torch's as seen from Keras's; ``known`` names factors that have a meaning."""
    if ours.shape != theirs.shape:
        return f"shape {ours.shape} instead of {theirs.shape}"
    factor = constant_factor(ours, theirs)
    if factor is not None:
        named = [name for name, value in known.items() if abs(factor / value - 1) < SAME]
        return " = ".join([f"ratio {factor:.7g}", *named])
    if ours.ndim == 4 and _alike_but_for_scale(ours, theirs):
        return "another mean or scale of each channel"
    if ours.ndim == 4 and _alike_but_for_scale(ours[..., ::-1], theirs):
        return "the channels in reverse order"
    if np.array_equal(np.sort(ours, axis=None), np.sort(theirs, axis=None)):
        return "the same values in another order"
    apart = float(np.abs(ours - theirs).max()) / (float(np.abs(theirs).max()) or 1.0)
    return f"differs by up to {apart:.1e} of the largest value"


def of_statistics(
    before: np.ndarray, ours: np.ndarray, theirs: np.ndarray, kept: float, known: Mapping[str, float]
) -> str:
    """The same for a running statistic, of whose value ``before`` Keras keeps the share ``kept``."""
    further = constant_factor(ours - before, theirs - before)
    if further is not None:
        return f"another momentum: {1 - further * (1 - kept):.7g} instead of {kept:.7g}"
    return relation(ours - kept * before, theirs - kept * before, known)


def constant_factor(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """By which all of torch's values differ from Keras's; None where there is no such factor."""
    counted = np.abs(theirs) > 1e-3 * np.abs(theirs).max()
    if not counted.any() or not np.array_equal(ours == 0, theirs == 0):
        return None
    factors = ours[counted] / theirs[counted]
    middle = float(np.median(factors))
    return middle if np.abs(factors - middle).max() < SAME * abs(middle) else None


def _alike_but_for_scale(images: np.ndarray, others: np.ndarray) -> bool:
    """Whether normalization alone sets images (B, H, W, C) apart, each channel by itself."""

    def standardized(images: np.ndarray) -> np.ndarray:
        centred = images - images.mean((0, 1, 2))
        return centred / (centred.std((0, 1, 2)) + np.finfo(images.dtype).tiny)

    return float(np.abs(standardized(images) - standardized(others)).max()) < NORMALIZED
