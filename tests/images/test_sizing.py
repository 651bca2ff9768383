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

SHAPES = [(48, 31), (31, 48), (40, 40), (9, 5), (200, 17)]


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


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    theirs = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(photo(*shape))
    # It rounds the longer side and the place of the crop to whole pixels.
    assert np.abs(opened(photo(*shape), Sizing(16, "crop")) - np.asarray(theirs, int)).mean() < 4
    if shape[0] == shape[1]:
        np.testing.assert_array_equal(opened(photo(*shape), Sizing(16, "crop")), np.asarray(theirs))


@pytest.mark.parametrize("shape", SHAPES)
def test_pad_keeps_the_shape_and_fills_with_black(shape: tuple[int, int]) -> None:
    found = opened(photo(*shape), Sizing(16, "pad"))
    used = found.any(2)
    rows, columns = int(used.any(1).sum()), int(used.any(0).sum())
    width, height = shape
    assert (columns, rows) == (max(round(16 * width / max(shape)), 1), max(round(16 * height / max(shape)), 1))
    inner = found[used.any(1)][:, used.any(0)]
    expected = np.asarray(photo(*shape).resize((columns, rows), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(inner, expected)
    assert abs(np.flatnonzero(used.any(1))[0] - (16 - rows) / 2) < 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("antialias", [True, False])
def test_antialiasing_is_pytorchs(shape: tuple[int, int], antialias: bool) -> None:
    pixels = torch.from_numpy(np.asarray(photo(*shape)).copy()).permute(2, 0, 1)[None].double()
    theirs = F.interpolate(pixels, (16, 16), mode="bilinear", antialias=antialias)[0].permute(1, 2, 0).numpy()
    assert np.abs(opened(photo(*shape), Sizing(16, antialias=antialias)) - theirs).max() <= 1.01  # it rounds twice


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
