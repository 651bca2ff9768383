"""Stratified random choice of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_vgg.images.imageset import DataError, Labels


def split_validation(labels: npt.ArrayLike, fraction: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Sorted indices of the training and of the validation images.

    A class of n images gives round(n * fraction) of them to validation: at least one where `fraction` is
    above 0, but never its last image, which training needs. The split depends on labels, fraction and seed alone.

    Raises DataError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"The validation fraction is {fraction}; it must be at least 0 and below 1.")
    classes, sizes = _class_sizes(labels)
    wanted = np.maximum(np.rint(sizes * fraction).astype(np.int64), int(fraction > 0))
    chosen = _choose(labels, classes, np.minimum(wanted, sizes - 1), seed)
    return np.setdiff1d(np.arange(sizes.sum()), chosen), chosen


def stratified_subset(labels: npt.ArrayLike, count: int, seed: int = 0) -> Labels:
    """Sorted indices of `count` images, classes in proportion by largest remainder, each at least once.

    Raises DataError when there are fewer than `count` images, or more classes than `count`.
    """
    classes, sizes = _class_sizes(labels)
    if count > sizes.sum():
        raise DataError(f"A subset of {count} images was requested, but there are only {sizes.sum()}.")
    if count < len(classes):
        raise DataError(f"A subset of {count} images is too small: there are {len(classes)} classes.")
    return _choose(labels, classes, _shares(sizes, count), seed)


def _class_sizes(labels: npt.ArrayLike) -> tuple[Labels, Labels]:
    classes, sizes = np.unique(np.asarray(labels, dtype=np.int64), return_counts=True)
    return classes, sizes.astype(np.int64)


def _shares(sizes: Labels, count: int) -> Labels:
    """The number of images of each class. Integer arithmetic throughout, so that rounding cannot decide a tie."""
    total = int(sizes.sum())
    shares = np.maximum(count * sizes // max(total, 1), 1)
    while shares.sum() < count:
        shares[np.argmax(count * sizes - shares * total)] += 1
    while shares.sum() > count:  # only where a rare class was raised to one image
        surplus = np.where(shares > 1, shares * total - count * sizes, -total * total)
        shares[np.argmax(surplus)] -= 1
    return shares


def _choose(labels: npt.ArrayLike, classes: Labels, shares: Labels, seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, dtype=np.int64)
    chosen = [
        rng.permutation(np.flatnonzero(labels == name))[:share] for name, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))
