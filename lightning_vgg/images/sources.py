"""Where images come from: CIFAR-10 or CIFAR-100, scikit-learn's digits, or a folder (or an archive) of image files.

Every source gives an `ImageSet`: square uint8 RGB images in memory, integer labels, and a fingerprint that shows
whether two runs saw the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning_vgg.common.nearest import or_all
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.cache import cache_folder
from lightning_vgg.images.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, load_cifar
from lightning_vgg.images.decode import Sizing, image_files, open_image
from lightning_vgg.images.digits import load_digits
from lightning_vgg.images.folder import load_folder
from lightning_vgg.images.imageset import DataError, ImageSet
from lightning_vgg.images.splits import split_validation, stratified_subset

__all__ = [
    "SOURCES",
    "DataError",
    "ImageSet",
    "cache_folder",
    "image_files",
    "load_images",
    "open_image",
    "sizing_of",
    "split_validation",
    "stratified_subset",
]

SOURCES: dict[str, Callable[[DataSpec, Sizing, Path], ImageSet]] = {
    "cifar10": partial(load_cifar, CIFAR10),
    "cifar100": partial(load_cifar, CIFAR100),
    "cifar100_coarse": partial(load_cifar, CIFAR100_COARSE),
    "digits": load_digits,
    "folder": load_folder,
}


def load_images(spec: DataSpec) -> ImageSet:
    """All images of a source, ``spec.image_size`` pixels a side, before any are chosen or held out.

    ``spec.root`` says where the files are, in the source's own way (see `load_cifar`, `load_folder`). Downloads and
    decoded images are kept in ``spec.cache_dir``; None is `$XDG_CACHE_HOME/lightning-vgg`, or `~/.cache/lightning-vgg`
    if the variable is not set.

    Raises DataError when the source is unknown or its data is missing or damaged.
    """
    if spec.source not in SOURCES:
        raise DataError(f"There is no data source {spec.source!r}{or_all(spec.source, SOURCES)}")
    try:
        return SOURCES[spec.source](spec, sizing_of(spec), cache_folder(spec.cache_dir))
    except OSError as error:
        raise DataError(f"The data of source {spec.source!r} cannot be read: {error}") from error


def sizing_of(spec: DataSpec) -> Sizing:
    """How its images become squares."""
    return Sizing(spec.image_size, spec.resize, spec.antialias)
