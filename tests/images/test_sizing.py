"""How images of other sizes and shapes become squares, against torchvision and PyTorch."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from made_images import encoded, write
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.decode import Sizing, open_image
from lightning_vgg.images.sources import load_images

SHAPES = [(48, 31), (31, 48), (40, 40), (42, 32), (9, 5), (200, 17)]


def photo(width: int, height: int) -> Image.Image:
    """Smooth, so that a shift by half a pixel shows, and rounding does not."""
    rows, columns = np.mgrid[:height, :width]
    channels = [127 + 100 * np.sin(rows / 7 + 1), 127 + 100 * np.cos(columns / 5), 90 + rows * 60 // height]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def opened(image: Image.Image, sizing: Sizing) -> np.ndarray:
    return open_image(io.BytesIO(encoded(image, "PNG")), sizing).astype(int)


@pytest.mark.parametrize("shape", SHAPES)
def test_squash_is_pillows(shape: tuple[int, int]) -> None:
    expected = np.asarray(photo(*shape).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(opened(photo(*shape), Sizing(16)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    theirs = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(photo(*shape))
    np.testing.assert_array_equal(opened(photo(*shape), Sizing(16, "crop")), np.asarray(theirs))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_antialiasing_crop_resizes_a_window_of_whole_pixels(shape: tuple[int, int]) -> None:
    image, side = photo(*shape), min(shape)
    left, top = ((each - side) // 2 for each in shape)
    window = image.crop((left, top, left + side, top + side))
    expected = opened(window, Sizing(16, antialias=False))
    np.testing.assert_array_equal(opened(image, Sizing(16, "crop", antialias=False)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_pad_keeps_the_shape_and_fills_with_black(shape: tuple[int, int]) -> None:
    """As high as torchvision makes it, and where TensorFlow's ``resize_with_pad`` puts it."""
    inner = np.asarray(v2.Resize(None, max_size=16)(photo(*shape)))
    expected = np.zeros((16, 16, 3), np.uint8)
    left, top = (int((16 - 16 * side / max(shape)) / 2) for side in shape)
    expected[top : top + len(inner), left : left + len(inner[0])] = inner
    np.testing.assert_array_equal(opened(photo(*shape), Sizing(16, "pad")), expected)


def test_a_thin_photo_keeps_a_pixel() -> None:
    for antialias in (True, False):
        found = opened(photo(200, 3), Sizing(16, "pad", antialias))
        np.testing.assert_array_equal(np.flatnonzero(found.any((1, 2))), [7])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("antialias", "rounded"), [(True, 1.0), (False, 0.5)])
def test_antialiasing_is_pytorchs(shape: tuple[int, int], antialias: bool, rounded: float) -> None:
    """Which Pillow rounds twice, first along the rows and then along the columns."""
    pixels = torch.from_numpy(np.asarray(photo(*shape)).copy()).permute(2, 0, 1)[None].double()
    theirs = F.interpolate(pixels, (16, 16), mode="bilinear", antialias=antialias)[0].permute(1, 2, 0).numpy()
    assert np.abs(opened(photo(*shape), Sizing(16, antialias=antialias)) - theirs).max() <= rounded + 1e-3


def test_shrunk_photos_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {f"{label}/{i}.png": encoded(photo(40 + i, 30), "PNG") for label in "ab" for i in range(5)}
    files |= {f"{label}/small.png": encoded(photo(8, 8), "PNG") for label in "ab"}
    root = write(tmp_path / "photos", files)
    with caplog.at_level(logging.WARNING):
        images = load_images(DataSpec("folder", str(root), 16, resize="crop", cache_dir=str(tmp_path / "cache")))
    assert (
        "10 of 12 images are larger than data.image_size (16) and are shrunk (crop); the largest has 44 x 30"
        in caplog.text
    )
    squashed = load_images(DataSpec("folder", str(root), 16, cache_dir=str(tmp_path / "cache")))
    assert squashed.fingerprint != images.fingerprint
