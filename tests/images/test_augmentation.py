"""The augmentation in numpy: against one image at a time by scipy and by torchvision, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates
from torchvision.transforms.v2.functional import resized_crop

from lightning_vgg.experiment.draws import Draws, Mixing, draw_epoch
from lightning_vgg.experiment.specs import AugmentationSpec
from lightning_vgg.images.augmentation import augmented, mixed
from lightning_vgg.images.batches import cut_batch

FLOAT32 = 2e-3
"""Of pixels 0..255: a place is rounded by up to 2e-6 pixels, and neighbours differ by up to 255."""


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def plain_draws(count: int) -> Draws:
    """Of the images in order, with nothing done to them."""
    still = np.zeros((count, 2), np.int64)
    return Draws(np.arange(count), np.zeros(count, bool), still, still, np.zeros(count, np.int64))


def turned(images: np.ndarray, turns: float, zoom: float = 1.0) -> np.ndarray:
    angle = 2 * np.pi * turns
    turn = np.tile([zoom * np.cos(angle), zoom * np.sin(angle)], (len(images), 1))
    return augmented(images, replace(plain_draws(len(images)), turn=turn))


@settings(deadline=None)
@given(
    st.integers(2, 12),
    st.floats(0, 0.5),
    st.floats(0, 0.99),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.integers(0, 2**20),
)
def test_each_image_as_scipy_has_it(
    size: int, rotation: float, zoom: float, contrast: float, brightness: float, crop: float, seed: int
) -> None:
    """Recolour, mirror, shift, crop, then one resampling of what lies at the turned and zoomed places, in float64."""
    spec = AugmentationSpec(True, 1, 0, True, rotation, zoom, contrast, brightness, resized_crop=crop)
    images = random_images(3, size, seed)
    draws = draw_epoch(seed, 0, 3, size, spec)
    results = augmented(images, draws)
    for row, result in enumerate(results):
        image = images[draws.index[row]].astype(float)
        if contrast:
            mean = image.mean((0, 1))
            image = np.clip((image - mean) * draws.contrast[row] + mean, 0, 255)
        if brightness:
            image = np.clip(image + draws.brightness[row], 0, 255)
        image = image[:, ::-1] if draws.flip[row] else image
        image = image[::-1] if draws.vertical_flip[row] else image
        down, right = draws.shift[row]
        image = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")[1 - down :, 1 - right :][:size, :size]
        if draws.turn is not None or draws.crop is not None:
            cosine, sine = (1, 0) if draws.turn is None else draws.turn[row]
            (top, left), (bottom, right) = [[0, 0], [size, size]] if draws.crop is None else draws.crop[row]
            image = image[top:bottom, left:right]
            y, x = np.mgrid[:size, :size] - (size - 1) / 2
            turned = np.stack([sine * x + cosine * y, cosine * x - sine * y]) + size / 2
            places = turned * np.reshape([bottom - top, right - left], (2, 1, 1)) / size - 1 / 2
            channels = [
                map_coordinates(channel, places, order=1, mode="reflect") for channel in np.moveaxis(image, 2, 0)
            ]
            image = np.stack(channels, axis=-1)
        assert_allclose(result, image, atol=FLOAT32)


def test_what_only_moves_pixels_gives_pixels() -> None:
    images = random_images(4, 8)
    draws = draw_epoch(0, 0, 4, 8, AugmentationSpec(True, 2, 0, True))
    assert augmented(images, draws).dtype == np.uint8
    assert_array_equal(augmented(images, plain_draws(4)), images, strict=True)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_a_resized_crop_is_torchvisions(size: int) -> None:
    images = random_images(50, size)
    draws = draw_epoch(0, 0, len(images), size, AugmentationSpec(resized_crop=0.1))
    ordered = torch.tensor(images[draws.index]).permute(0, 3, 1, 2).double()
    theirs = [
        resized_crop(image, *first, *(end - first), [size, size], antialias=False)
        for image, (first, end) in zip(ordered, draws.crop, strict=True)
    ]
    assert_allclose(augmented(images, draws), torch.stack(theirs).permute(0, 2, 3, 1), atol=FLOAT32)


def test_a_crop_of_everything_changes_nothing() -> None:
    images = random_images(3, 7)
    everything = np.broadcast_to([[0, 0], [7, 7]], (3, 2, 2))
    assert_allclose(augmented(images, replace(plain_draws(3), crop=everything)), images, atol=FLOAT32)


def test_a_turn_of_nothing_changes_nothing() -> None:
    for size in (1, 2, 7, 32):
        assert_array_equal(turned(random_images(3, size), 0.0), random_images(3, size))


@pytest.mark.parametrize("quarters", [-2, -1, 1, 2])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_quarter_turns_are_those_of_numpy_counter_clockwise(size: int, quarters: int) -> None:
    images = random_images(3, size)
    assert_allclose(turned(images, quarters / 4), np.rot90(images, quarters, axes=(1, 2)), atol=FLOAT32)


def test_a_zoom_by_two_into_the_middle_doubles_what_is_there() -> None:
    """Half a pixel is between two."""
    ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8)[:, None], (1, 8, 8))[..., None]
    assert_allclose(turned(ramp, 0.0, zoom=0.5)[0, 0, :, 0], 0 * np.arange(8) + 17.5)
    assert_allclose(turned(ramp, 0.0, zoom=0.5)[0, :, 0, 0], 17.5 + 5 * np.arange(8))


def test_beyond_the_edge_is_the_mirror_image_with_the_edge_twice() -> None:
    ramp = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None], (1, 4, 4))[..., None]
    assert_allclose(turned(ramp, 0.0, zoom=5 / 3)[0, :, 0, 0], [0, 0.666667, 2.333333, 3], atol=1e-6)


@given(st.floats(-255, 255), st.integers(0, 100))
def test_brightness_is_added_and_clipped(delta: float, seed: int) -> None:
    images = random_images(2, 5, seed)
    result = augmented(images, replace(plain_draws(2), brightness=np.full(2, delta)))
    assert result.dtype == np.float32
    assert_allclose(result, np.clip(images + delta, 0, 255), atol=1e-4)


def test_contrast_keeps_each_channels_mean_and_scales_the_differences() -> None:
    images = (100 + random_images(2, 5) // 16).astype(np.uint8)
    result = augmented(images, replace(plain_draws(2), contrast=np.array([0.0, 2.0])))
    mean = images.mean((1, 2), keepdims=True)
    assert_allclose(result[0], np.broadcast_to(mean[0], result[0].shape), rtol=1e-6)
    assert_allclose(result[1], 2 * images[1] - mean[1], rtol=1e-5)
    clipped = augmented(images, replace(plain_draws(2), contrast=np.array([1e9, -1e9])))
    assert_array_equal(clipped[images != mean] % 255, 0)


def test_what_is_erased_is_the_mean_colour_and_the_rest_stays() -> None:
    images = random_images(2, 6)
    erased = np.array([[[1, 2], [4, 3]], [[0, 0], [0, 0]]])
    batch = cut_batch(images, replace(plain_draws(2), erased=erased), 0, lambda pixels: pixels.astype(np.float32) + 1)
    expected = images.astype(np.float32) + 1
    expected[0, 1:4, 2:3] = 0
    assert_array_equal(batch, expected, strict=True)


def mixing(**columns: object) -> Mixing:
    """Of three images, each mixed with the one before."""
    return replace(Mixing(np.array([0.5, 0.7, 0.2]), np.full(3, 0.75), None, None), **columns)


def test_mixup_blends_images_and_labels() -> None:
    images, labels = random_images(3, 4).astype(np.float64), np.array([0, 3, 3])
    blend = np.array([1.0, 0.25, 0.5])
    result, shares = mixed(images, labels, mixing(blend=blend, share=blend), classes=4)
    assert_array_equal(mixing().partners(), [2, 0, 1])
    assert_array_equal(result, np.stack([images[0], images[1] / 4 + images[0] * 3 / 4, (images[2] + images[1]) / 2]))
    assert_array_equal(shares, [[1, 0, 0, 0], [0.75, 0, 0, 0.25], [0, 0, 0, 1]])


def test_cutmix_pastes_a_rectangle() -> None:
    images, labels = random_images(3, 4).astype(np.float32), np.array([0, 1, 2])
    pasted = np.array([[[0, 1], [2, 3]], [[0, 0], [0, 0]], [[0, 0], [4, 4]]])
    result, shares = mixed(images, labels, mixing(pasted=pasted, share=np.array([0.75, 1, 0])), classes=3)
    expected = np.stack([images[0], images[1], images[1]])
    expected[0, 0:2, 1:3] = images[2, 0:2, 1:3]
    assert_array_equal(result, expected, strict=True)
    assert_array_equal(shares, np.array([[0.75, 0, 0.25], [0, 1, 0], [0, 1, 0]], np.float32), strict=True)


@given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 2**20))
def test_the_share_of_a_label_is_that_of_its_pixels(count: int, size: int, seed: int) -> None:
    """Each image has a colour of its own, so that the pixels tell what they are a mixture of."""
    images = np.broadcast_to(np.eye(count)[:, None, None], (count, size, size, count))
    draws = draw_epoch(seed, 0, count, size, AugmentationSpec(mixup=0.5, cutmix=1.0))
    result, shares = mixed(images, np.arange(count), draws.mixing, classes=count)
    assert_allclose(result.mean((1, 2)), shares, atol=1e-12)
    assert_allclose(shares.sum(1), 1)
