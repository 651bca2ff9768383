"""Both frameworks in this process, in the order that does not crash."""

import os
from pathlib import Path

import pytest

import parity_tests.frameworks  # noqa: F401


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real images and weights."""
    folder = os.environ.get("LIGHTNING_VGG_TEST_DATA")
    if folder is None:
        pytest.skip("LIGHTNING_VGG_TEST_DATA does not name a folder with data/cifar10-jpeg.tar.xz")
    return Path(folder)
