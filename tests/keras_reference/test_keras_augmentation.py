"""The augmentation against Keras's own layers, given the same draws; and the loss of what is mixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lightning_vgg.experiment.draws import Draws, draw_epoch
from lightning_vgg.experiment.specs import AugmentationSpec
from lightning_vgg.images.augmentation import augmented, mixed
from lightning_vgg.images.batches import cut_batch

COUNT, SIZE, CLASSES = 12, 16, 5
FLOAT32 = 3e-3
"""Of pixels 0..255, between two sides that each round a place by up to 1e-6 pixels, and neighbours differ by 255."""


def images_and_draws(augmentation: AugmentationSpec) -> tuple[np.ndarray, Draws, np.ndarray]:
    """All images, the draws, and the images in the order of the draws."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    draws = draw_epoch(3, 0, COUNT, SIZE, augmentation)
    return images, draws, images[draws.index].astype(np.float32)


def test_rotation(keras: Any) -> None:
    images, draws, ordered = images_and_draws(AugmentationSpec(rotation=0.5))
    layer = keras.layers.RandomRotation(0.5)
    degrees = keras.ops.convert_to_tensor(np.degrees(np.arctan2(draws.turn[:, 1], draws.turn[:, 0])), "float32")
    zeros, ones = keras.ops.zeros(COUNT), keras.ops.ones(COUNT)
    matrix = layer._compute_affine_matrix(
        center_x=0.5,
        center_y=0.5,
        angle=degrees,
        translate_x=zeros,
        translate_y=zeros,
        scale=ones,
        shear_x=zeros,
        shear_y=zeros,
        height=SIZE,
        width=SIZE,
    )
    turned = layer.transform_images(keras.ops.convert_to_tensor(ordered), {"rotation_matrix": matrix})
    assert_allclose(augmented(images, draws), np.asarray(turned), atol=FLOAT32)


def test_zoom(keras: Any) -> None:
    images, draws, ordered = images_and_draws(AugmentationSpec(zoom=0.9))
    zoom = keras.ops.convert_to_tensor(draws.turn[:, :1], "float32")
    layer = keras.layers.RandomZoom(0.9)
    zoomed = layer.transform_images(keras.ops.convert_to_tensor(ordered), {"height_zoom": zoom, "width_zoom": zoom})
    assert_allclose(augmented(images, draws), np.asarray(zoomed), atol=FLOAT32)


def test_a_resized_crop(keras: Any) -> None:
    images, draws, ordered = images_and_draws(AugmentationSpec(resized_crop=0.1))
    assert len(np.unique(draws.crop, axis=0)) > 5
    resized = [
        keras.ops.image.resize(image[top:bottom, left:right], (SIZE, SIZE), interpolation="bilinear")
        for image, ((top, left), (bottom, right)) in zip(ordered, draws.crop, strict=True)
    ]
    assert_allclose(augmented(images, draws), np.stack(resized), atol=FLOAT32)


def test_contrast_and_then_brightness(keras: Any) -> None:
    images, draws, ordered = images_and_draws(AugmentationSpec(contrast=0.9, brightness=0.5))
    factor, delta = draws.contrast[:, None, None, None], draws.brightness[:, None, None, None]
    contrast = {"contrast_factor": keras.ops.convert_to_tensor(factor, "float32")}
    recoloured = keras.layers.RandomContrast(0.9).transform_images(keras.ops.convert_to_tensor(ordered), contrast)
    recoloured = keras.layers.RandomBrightness(0.5).transform_images(recoloured, {"rgb_delta": delta})
    result = augmented(images, draws)
    assert {result.min(), result.max()} == {0, 255}  # something is clipped
    assert_allclose(result, np.asarray(recoloured), atol=1e-3)


@pytest.mark.parametrize("mode", ["horizontal", "vertical"])
def test_flips(mode: str, keras: Any) -> None:
    vertical = mode == "vertical"
    images, draws, ordered = images_and_draws(AugmentationSpec(flip=not vertical, vertical_flip=vertical))
    flips = keras.ops.convert_to_tensor((draws.vertical_flip if vertical else draws.flip)[:, None, None, None])
    flipped = keras.layers.RandomFlip(mode).transform_images(ordered, {"flips": flips})
    assert_array_equal(augmented(images, draws), np.asarray(flipped))


def bounds(rectangles: np.ndarray, keras: Any) -> tuple[Any, ...]:
    """Left, right, top and bottom."""
    corners = [rectangles[:, 0, 1], rectangles[:, 1, 1], rectangles[:, 0, 0], rectangles[:, 1, 0]]
    return tuple(keras.ops.convert_to_tensor(corner, "float32") for corner in corners)


def test_erasing(keras: Any) -> None:
    images, draws, ordered = images_and_draws(AugmentationSpec(erasing=0.7))
    layer = keras.layers.RandomErasing(fill_value=0)
    transformation = {
        "batch_masks": layer._generate_batch_mask(ordered.shape, bounds(draws.erased, keras)),
        "apply_erasing": keras.ops.convert_to_tensor(draws.erased.any((1, 2))),
        "fill_value": keras.ops.zeros(ordered.shape),
    }
    result = cut_batch(images, draws, 0, lambda pixels: pixels.astype(np.float32))
    assert_array_equal(result, np.asarray(layer.transform_images(ordered, transformation)))


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_mixing(name: str, keras: Any) -> None:
    setting = {"MixUp": AugmentationSpec(mixup=0.4), "CutMix": AugmentationSpec(cutmix=1.0)}[name]
    _, draws, ordered = images_and_draws(setting)
    labels = np.arange(COUNT) % CLASSES
    layer, order = getattr(keras.layers, name)(), draws.mixing.partners()
    if name == "MixUp":
        transformation = {"mix_weight": keras.ops.convert_to_tensor(draws.mixing.blend, "float32")}
    else:
        masks, weight = layer._generate_batch_mask(ordered.shape, bounds(draws.mixing.pasted, keras))
        transformation = {"batch_masks": masks, "mix_weight": weight}
    transformation["permutation_order"] = keras.ops.convert_to_tensor(order)
    images, shares = mixed(ordered, labels, draws.mixing, CLASSES)
    assert_allclose(images, np.asarray(layer.transform_images(ordered, transformation)), rtol=1e-5, atol=1e-4)
    one_hot = keras.ops.convert_to_tensor(np.eye(CLASSES, dtype=np.float32)[labels])
    assert_allclose(shares, np.asarray(layer.transform_labels(one_hot, transformation)), atol=1e-6)


def test_a_shift_is_keras_translation_by_whole_pixels_but_for_the_edge(keras: Any) -> None:
    images, draws, ordered = images_and_draws(AugmentationSpec(shift=3))
    moves = keras.ops.convert_to_tensor(draws.shift[:, ::-1].copy(), "float32")
    layer = keras.layers.RandomTranslation(0.2, 0.2)
    moved = np.asarray(layer.transform_images(ordered, {"translations": moves, "input_shape": ordered.shape}))
    assert_allclose(augmented(images, draws)[:, 3:-3, 3:-3], moved[:, 3:-3, 3:-3], atol=FLOAT32)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.25])
def test_of_mixed_images_the_loss_is_mixed_and_the_larger_share_counts(label_smoothing: float, keras: Any) -> None:
    from keras_reference.backend import prepare_keras
    from keras_reference.module import compile_model

    prepare_keras("64-true", seed=0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("linear")])
    compile_model(model, label_smoothing, optimizer=None, mixed=True)
    generator = np.random.default_rng(0)
    logits, one, other, share = generator.normal(size=(8, 3)), np.arange(8) % 3, np.arange(8) % 2, generator.random(8)
    targets = share[:, None] * np.eye(3)[one] + (1 - share[:, None]) * np.eye(3)[other]
    negative = np.log(np.exp(logits).sum(1, keepdims=True)) - logits
    smoothed = (1 - label_smoothing) * negative + label_smoothing * negative.mean(1, keepdims=True)
    expected = (share * smoothed[np.arange(8), one] + (1 - share) * smoothed[np.arange(8), other]).mean()
    logs = model.evaluate(logits, targets, batch_size=3, verbose=0, return_dict=True)
    assert logs["training_loss"] == pytest.approx(expected, rel=1e-14)
    larger = np.where(share > 0.5, one, other)
    assert logs["acc"] == (logits.argmax(1) == larger).mean()
    # The validation's labels are not mixed, by the same model.
    logs = model.evaluate(logits, one, batch_size=3, verbose=0, return_dict=True)
    assert logs["cross_entropy"] == pytest.approx(negative[np.arange(8), one].mean(), rel=1e-14)
    assert logs["acc"] == (logits.argmax(1) == one).mean()


def test_batches_have_shares_where_images_are_mixed(keras: Any) -> None:
    from keras_reference.data import TrainingBatches, normalizer
    from lightning_vgg.experiment.specs import DataSpec
    from lightning_vgg.images.batches import Normalization
    from lightning_vgg.images.dataset import Split

    images, _, _ = images_and_draws(AugmentationSpec())
    part, normalization = Split(images, np.arange(COUNT) % 2), Normalization.of(images)
    spec = DataSpec(image_size=SIZE, batch_size=8, augmentation=AugmentationSpec(mixup=1.0))
    batches = TrainingBatches(part, CLASSES, spec, normalizer(normalization, "float32"), seed=0)
    targets = [batches[number][1] for number in range(len(batches))]
    assert [(each.shape, each.dtype) for each in targets] == [((8, CLASSES), np.float32), ((4, CLASSES), np.float32)]
    spec = replace(spec, augmentation=AugmentationSpec(brightness=0.5))
    batches = TrainingBatches(part, CLASSES, spec, normalizer(normalization, "float32"), seed=0)
    assert batches[1][1].shape == (4,)
