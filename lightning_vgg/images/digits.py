"""scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels, which come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.decode import Sizing, resize
from lightning_vgg.images.imageset import DataError, ImageSet, make_image_set
from lightning_vgg.images.splits import stratified_subset

TEST_COUNT = 360


def load_digits(spec: DataSpec, sizing: Sizing, _cache: Path) -> ImageSet:
    """1,437 training and 360 test images, in a fixed split with the classes in proportion.

    The scans' grey values 0..16 become 0..255 in three equal channels.

    Raises DataError when a root is given.
    """
    if spec.root is not None:
        raise DataError(f"The source 'digits' reads no files, but data.root is {spec.root}: remove it.")
    from sklearn import datasets

    scans, labels = datasets.load_digits(return_X_y=True)
    grey = np.rint(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.stack([resize(Image.fromarray(scan).convert("RGB"), sizing) for scan in grey])
    labels = labels.astype(np.int64)
    test = stratified_subset(labels, TEST_COUNT)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return make_image_set((images[train], labels[train]), (images[test], labels[test]), [str(i) for i in range(10)])
