"""Where images come from: CIFAR-10 or CIFAR-100, scikit-learn's digits, or a folder (or an archive) of image files.

Every source gives an `ImageSet`: square uint8 RGB images in memory, integer labels, and a fingerprint that shows
whether two runs saw the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning_vgg.common.nearest import or_all
from lightning_vgg.images.cache import cache_folder
from lightning_vgg.images.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, load_cifar
from lightning_vgg.images.decode import image_files, open_image
from lightning_vgg.images.digits import load_digits
from lightning_vgg.images.folder import OnBadImage, load_folder
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
    "split_validation",
    "stratified_subset",
]

SOURCES: dict[str, Callable[..., ImageSet]] = {
    "cifar10": partial(load_cifar, CIFAR10),
    "cifar100": partial(load_cifar, CIFAR100),
    "cifar100_coarse": partial(load_cifar, CIFAR100_COARSE),
    "digits": load_digits,
    "folder": load_folder,
}


def load_images(
    source: str,
    root: str | None,
    image_size: int = 32,
    cache_dir: str | None = None,
    on_bad_image: OnBadImage = "error",
    test_fraction: float = 0.1,
) -> ImageSet:
    """All images of a source, `image_size` x `image_size` pixels each.

    `root` says where the files are, in the source's own way (see `load_cifar`, `load_folder`). Downloads
    and decoded images are kept in `cache_dir`; None is `$XDG_CACHE_HOME/lightning-vgg`, or
    `~/.cache/lightning-vgg` if the variable is not set. `on_bad_image` and `test_fraction` concern only the images of
    a folder.

    Raises DataError when the source is unknown or its data is missing or damaged.
    """
    if source not in SOURCES:
        raise DataError(f"There is no data source {source!r}{or_all(source, SOURCES)}")
    if image_size < 1:
        raise DataError(f"image_size is {image_size}; it is the side of the images in pixels, 1 or more.")
    try:
        more = {"on_bad_image": on_bad_image, "test_fraction": test_fraction} if source == "folder" else {}
        return SOURCES[source](root, image_size, cache_folder(cache_dir), **more)
    except OSError as error:
        raise DataError(f"The data of source {source!r} cannot be read: {error}") from error
