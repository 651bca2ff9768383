"""Batches: numpy against one image at a time, torch against numpy bit for bit, and each image exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_vgg.experiment.draws import Draws, draw_epoch
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec, ExperimentSpec
from lightning_vgg.images import augmentation
from lightning_vgg.images.batches import Normalization, cut_batch, normalize, training_batch
from lightning_vgg.images.dataset import Split
from lightning_vgg.training.augmentation import TrainRows, augmented, train_rows
from lightning_vgg.training.data import DeviceImages, EvalLoader, EvalRows, ImageData, TrainLoader
from lightning_vgg.training.scores import Scores

NORMALIZATION = Normalization(mean=(125.3, 122.95, 113.87), std=(62.99, 62.09, 66.7))
DTYPES = [(np.float32, torch.float32), (np.float64, torch.float64)]


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# --- cutting ----------------------------------------------------------------------------------------------------------


def cut_one(
    image: np.ndarray, flip: bool, shift: np.ndarray, centre: np.ndarray, cutout: int, dtype: type
) -> np.ndarray:
    """One image, step by step: mirror, pad, crop, normalize, cut out."""
    size = len(image)
    if flip:
        image = np.fliplr(image)
    margin = size - 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    top, left = margin - shift[0], margin - shift[1]  # down and to the right
    image = padded[top : top + size, left : left + size]
    mean, scale = np.array(NORMALIZATION.mean, dtype), np.array([1 / std for std in NORMALIZATION.std]).astype(dtype)
    result = (image.astype(dtype) - mean) * scale
    for row in range(centre[0] - cutout // 2, centre[0] - cutout // 2 + cutout):
        for column in range(centre[1] - cutout // 2, centre[1] - cutout // 2 + cutout):
            if 0 <= row < size and 0 <= column < size:
                result[row, column] = 0
    return result


@st.composite
def cuts(draw: st.DrawFn) -> tuple[np.ndarray, Draws, int]:
    """Images, the epoch's draws, and the side of the cutout."""
    size = draw(st.integers(1, 9))
    cutout = draw(st.just(0) | st.integers(1, size + 3))
    augmentation = AugmentationSpec(draw(st.booleans()), draw(st.integers(0, size - 1)), cutout)
    count = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**20))
    return random_images(count, size, seed), draw_epoch(seed, 0, count, size, augmentation), cutout


@pytest.mark.parametrize(("numpy_type", "torch_type"), DTYPES, ids=["float32", "float64"])
@settings(deadline=None)
@given(cuts())
def test_cutting_in_numpy_and_in_torch(
    numpy_type: type, torch_type: torch.dtype, case: tuple[np.ndarray, Draws, int]
) -> None:
    images, draws, cutout = case
    expected = np.stack(
        [
            cut_one(images[index], flip, shift, centre, cutout, numpy_type)
            for index, flip, shift, centre in zip(draws.index, draws.flip, draws.shift, draws.cutout, strict=True)
        ]
    )
    result = cut_batch(images, draws, cutout, lambda pixels: normalize(pixels, NORMALIZATION, numpy_type))
    assert result.dtype == numpy_type
    assert_array_equal(result, expected)

    labels = np.arange(len(images))[::-1].copy()
    on_device = DeviceImages(Split(images, labels), NORMALIZATION, torch.device("cpu"), torch_type)
    rows = TrainRows(*map(torch.from_numpy, tables(draws)))
    batch, batch_labels, mask_keys = on_device.training_batch(rows, cutout, classes=10)
    assert batch.dtype == torch_type
    assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), expected)
    assert_array_equal(batch_labels.numpy(), labels[draws.index])
    assert_array_equal(mask_keys.numpy(), draws.mask_key)


@pytest.mark.parametrize(("numpy_type", "torch_type"), DTYPES, ids=["float32", "float64"])
def test_evaluation_batches(numpy_type: type, torch_type: torch.dtype) -> None:
    images, labels = random_images(40, 7), np.arange(40) % 3
    on_device = DeviceImages(Split(images, labels), NORMALIZATION, torch.device("cpu"), torch_type)
    chosen = np.array([39, 0, 7, 7, 12])
    batch, batch_labels = on_device.evaluation_batch(EvalRows(torch.from_numpy(chosen)))
    expected = normalize(images[chosen], NORMALIZATION, numpy_type)
    assert expected.dtype == numpy_type
    assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), expected)
    assert_array_equal(batch_labels.numpy(), labels[chosen])
    assert batch.dtype == torch_type
    assert batch.is_contiguous(memory_format=torch.channels_last)
    by_formula = (images[chosen] - np.array(NORMALIZATION.mean)) / np.array(NORMALIZATION.std)
    assert_allclose(expected, by_formula, rtol=1e-5, atol=1e-6)


def test_the_training_images_are_not_changed() -> None:
    images = random_images(5, 6)
    before = images.copy()
    augmentation = AugmentationSpec(flip=True, shift=2, cutout=3)
    draws = draw_epoch(0, 0, 5, 6, augmentation)
    cut_batch(images, draws, 3, lambda pixels: normalize(pixels, NORMALIZATION, np.float32))
    on_device = DeviceImages(Split(images, np.arange(5)), NORMALIZATION, torch.device("cpu"), torch.float32)
    rows = TrainRows(*map(torch.from_numpy, tables(draws)))
    on_device.training_batch(rows, 3, classes=10)
    assert_array_equal(images, before)


augmentations = st.builds(
    AugmentationSpec,
    flip=st.booleans(),
    shift=st.integers(0, 2),
    cutout=st.integers(0, 4),
    vertical_flip=st.booleans(),
    rotation=st.sampled_from([0.0, 0.1, 0.5]),
    zoom=st.sampled_from([0.0, 0.2, 0.9]),
    contrast=st.sampled_from([0.0, 0.5, 1.0]),
    brightness=st.sampled_from([0.0, 0.2, 1.0]),
    erasing=st.sampled_from([0.0, 0.5, 1.0]),
    mixup=st.sampled_from([0.0, 0.2, 1.0]),
    cutmix=st.sampled_from([0.0, 1.0]),
    resized_crop=st.sampled_from([0.0, 0.1, 0.8]),
)


@pytest.mark.parametrize(("numpy_type", "torch_type"), DTYPES, ids=["float32", "float64"])
@settings(deadline=None, max_examples=200)
@given(augmentations, st.integers(3, 12), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**20))
def test_any_augmentation_is_the_same_in_torch_bit_for_bit_in_any_number_of_processes(
    numpy_type: type, torch_type: torch.dtype, spec: AugmentationSpec, size: int, count: int, processes: int, seed: int
) -> None:
    images, labels = random_images(count, size, seed), np.arange(count) % 3
    draws = draw_epoch(seed, 1, count, size, spec)
    inputs, targets = training_batch(
        images, labels, 3, draws, spec.cutout, lambda pixels: normalize(pixels, NORMALIZATION, numpy_type)
    )
    assert inputs.dtype == numpy_type
    on_device = DeviceImages(Split(images, labels), NORMALIZATION, torch.device("cpu"), torch_type)
    for rank in range(processes):
        share = slice(rank, None, processes)
        found = on_device.training_batch(train_rows(draws, slice(0, count), share), spec.cutout, classes=3)
        if len(found[0]) > 1:
            assert found[0].is_contiguous(memory_format=torch.channels_last)
        assert_array_equal(found[0].permute(0, 2, 3, 1).numpy(), inputs[share], strict=True)
        assert_array_equal(found[1].numpy(), targets[share], strict=True)
        assert_array_equal(found[2].numpy(), draws.mask_key[share])


def test_by_hand() -> None:
    """One row of pixels 0 1 2 3, seen through each of the changes."""
    images = np.broadcast_to(np.arange(4, dtype=np.uint8)[None, None, :, None], (1, 4, 4, 3))
    plain = Normalization((0.0,) * 3, (1.0,) * 3)

    def seen(flip: bool, right: int, cutout: int = 0) -> list[float]:
        draws = Draws(np.array([0]), np.array([flip]), np.array([[0, right]]), np.array([[1, 2]]), np.array([0]))
        batch = cut_batch(images, draws, cutout, lambda pixels: normalize(pixels, plain, np.float64))
        return batch[0, 1, :, 0].tolist()

    assert seen(False, 0) == [0, 1, 2, 3]
    assert seen(True, 0) == [3, 2, 1, 0]
    assert seen(False, 1) == [1, 0, 1, 2]
    assert seen(False, -2) == [2, 3, 2, 1]
    assert seen(True, 1) == [2, 3, 2, 1]
    assert seen(False, 0, cutout=2) == [0, 0, 0, 3]


# --- normalization ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**20))
def test_normalization_is_numpys_mean_and_deviation(count: int, size: int, seed: int) -> None:
    images = random_images(count, size, seed)
    normalization = Normalization.of(images)
    assert_allclose(normalization.mean, images.mean((0, 1, 2)), rtol=1e-12)
    deviation = images.std((0, 1, 2))
    assert_allclose(normalization.std, np.where(deviation == 0, 1, deviation), rtol=1e-9)


def test_a_channel_that_never_changes() -> None:
    images = random_images(10, 5)
    images[..., 1] = 77
    normalization = Normalization.of(images)
    assert normalization.mean[1] == 77
    assert normalization.std[1] == 1
    assert not normalize(images, normalization, np.float32)[..., 1].any()
    assert all(type(value) is float for value in normalization.mean + normalization.std)  # JSON takes them


def test_normalized_images_have_mean_0_and_deviation_1() -> None:
    images = random_images(20, 9)
    batch = normalize(images, Normalization.of(images), np.float64)
    assert_allclose(batch.mean((0, 1, 2)), 0, atol=1e-12)
    assert_allclose(batch.std((0, 1, 2)), 1, rtol=1e-12)


# --- the training loader ----------------------------------------------------------------------------------------------

AUGMENTATION = AugmentationSpec(flip=True, shift=3, cutout=2)
MIXED = AugmentationSpec(rotation=0.1, contrast=0.2, erasing=0.5, mixup=0.4, cutmix=1.0)


class Epoch:
    """The trainer's current epoch."""

    now = 0

    def __call__(self) -> int:
        return self.now


def train_loader(
    count: int,
    batch_size: int,
    epoch: Callable[[], int],
    share: slice = slice(None),
    augmentation: AugmentationSpec = AUGMENTATION,
) -> TrainLoader:
    return TrainLoader(count, batch_size, lambda now: draw_epoch(7, now, count, 32, augmentation), epoch, share)


def tables(draws: Draws) -> tuple[np.ndarray, ...]:
    return draws.index, draws.flip, draws.shift, draws.cutout, draws.mask_key


def as_lists(batches: list[TrainRows]) -> list[list[object]]:
    return [[table.tolist() for table in tensors_of(rows)] for rows in batches]


def tensors_of(rows: tuple[object, ...]) -> list[torch.Tensor]:
    """Those of what is switched on, mixing among them."""
    found = [
        [item] if isinstance(item, torch.Tensor) else tensors_of(item)
        for item in rows
        if isinstance(item, torch.Tensor | tuple)
    ]
    return list(chain.from_iterable(found))


def rows_of(batch: TrainRows) -> list[tuple[object, ...]]:
    return list(zip(*(table.tolist() for table in tensors_of(batch)), strict=True))


@given(st.integers(1, 60), st.integers(1, 25))
def test_an_epoch_is_the_table_in_order(count: int, batch_size: int) -> None:
    epoch = Epoch()
    loader = train_loader(count, batch_size, epoch)
    for epoch.now in (0, 1, 2):
        batches = list(loader)
        assert len(batches) == len(loader) == math.ceil(count / batch_size)
        assert {len(rows.image) for rows in batches[:-1]} <= {batch_size}
        draws = draw_epoch(7, epoch.now, count, 32, AUGMENTATION)
        whole = map(torch.cat, zip(*map(tensors_of, batches), strict=True))
        for table, expected in zip(whole, tables(draws), strict=True):
            assert_array_equal(table.numpy(), expected)


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([AUGMENTATION, MIXED]), st.data())
def test_a_loader_resumed_inside_an_epoch_goes_on_where_it_was(
    count: int, batch_size: int, augmentation: AugmentationSpec, data: st.DataObject
) -> None:
    def loader() -> TrainLoader:
        return train_loader(count, batch_size, epoch, augmentation=augmentation)

    epoch = Epoch()
    epoch.now = data.draw(st.integers(0, 3), label="epoch")
    whole = as_lists(list(loader()))
    taken = data.draw(st.integers(0, len(whole) - 1), label="batches before the stop")
    stopped = loader()
    batches = iter(stopped)
    first = [next(batches) for _ in range(taken)]
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert as_lists(first + list(resumed)) == whole
    epoch.now += 1
    assert as_lists(list(resumed)) == as_lists(list(loader()))


def test_an_epoch_left_early_does_not_shift_the_next() -> None:
    """As with trainer.limit_train_batches."""
    epoch = Epoch()
    loader = train_loader(50, 5, epoch)
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    epoch.now = 1
    assert len(list(loader)) == 10
    resumed = train_loader(50, 5, epoch)
    resumed.load_state_dict(state)
    assert len(list(resumed)) == 10


def test_a_state_of_the_last_batch_begins_anew() -> None:
    loader = train_loader(10, 5, Epoch())
    assert len(list(loader)) == 2
    assert len(list(loader)) == 2


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_processes_share_each_batch(count: int, batch_size: int, processes: int) -> None:
    alone = list(train_loader(count, batch_size, Epoch()))
    shares = [list(train_loader(count, batch_size, Epoch(), slice(rank, None, processes))) for rank in range(processes)]
    for whole, *parts in zip(alone, *shares, strict=True):
        # A row's flip, shift and cutout go where its image goes.
        assert sorted(row for part in parts for row in rows_of(part)) == sorted(rows_of(whole))
        sizes = [len(part.image) for part in parts]
        assert max(sizes) - min(sizes) <= 1


# --- the evaluation loader --------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.integers(1, 30), st.integers(1, 3))
def test_evaluation_sees_every_image_once(count: int, batch_size: int, processes: int) -> None:
    seen = []
    for rank in range(processes):
        loader = EvalLoader(count, batch_size, slice(rank, None, processes))
        batches = list(loader)
        assert len(batches) == len(loader) == math.ceil(count / batch_size)  # alike, or the processes wait for ever
        seen += [image for rows in batches for image in rows.image.tolist()]
        if processes == 1:
            assert seen == list(range(count))  # in order
    assert sorted(seen) == list(range(count))


def test_scores_take_an_empty_share() -> None:
    """With more processes than images in the last batch one process gets none; its mean loss is NaN."""
    scores = Scores(3)
    scores.update(torch.eye(3), torch.tensor([0, 1, 1]), torch.tensor(0.5))
    scores.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.tensor(math.nan))
    loss, accuracy, _ = scores.compute()
    assert loss.item() == 0.5
    assert accuracy.item() == pytest.approx(2 / 3)


def test_confusions_are_those_of_torchmetrics_and_no_value_is_waited_for() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 7, generator=generator)
    labels = torch.randint(0, 6, (200,), generator=generator)  # of the last class there are no images
    scores, loss = Scores(7), torch.zeros(())
    for rows in (slice(0, 150), slice(150, 200)):
        scores.update(logits[rows], labels[rows], loss)
    golden = multiclass_confusion_matrix(logits, labels, num_classes=7)
    assert_array_equal(scores.compute()[2].numpy(), golden.numpy())
    # It has shapes alone: whoever asks for a value, as torch.bincount does, gets an error.
    scores.to("meta").update(*(tensor.to("meta") for tensor in (logits, labels, loss)))


# --- all together -----------------------------------------------------------------------------------------------------


def test_image_data_feeds_what_the_table_says() -> None:
    spec = DataSpec(source="digits", image_size=8, batch_size=64, augmentation=AUGMENTATION, validation_fraction=0.2)
    data = ImageData(ExperimentSpec(seed_everything=5, data=spec))
    count = data.count("train")
    draws = draw_epoch(5, 0, count, 8, AUGMENTATION)
    rows = torch.cat([rows.image for rows in data.train_dataloader()])
    assert_array_equal(rows.numpy(), draws.index)
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        assert torch.cat([rows.image for rows in loader]).tolist() == list(range(data.count(part)))
    assert data.num_classes == 10


def test_no_validation_images_no_validation() -> None:
    data = ImageData(ExperimentSpec(data=DataSpec(source="digits", image_size=8, validation_fraction=0)))
    assert data.count("val") == 0
    assert data.val_dataloader() == []


@pytest.mark.parametrize("changes", [{}, {"contrast": 0.5}, {"brightness": 0.3, "cutout": 4}])
def test_images_whose_pixels_stay_where_they_are_are_gathered_whole(changes: dict[str, Any]) -> None:
    """And become what the gather of single pixels makes of them, in numpy and in torch."""
    images = np.random.default_rng(0).integers(0, 256, (20, 7, 7, 3), dtype=np.uint8)
    draws = draw_epoch(1, 0, 20, 7, AugmentationSpec(**changes))[slice(0, 9)]
    assert not draws.moves_pixels
    in_place = replace(draws, vertical_flip=np.zeros(9, bool))
    assert in_place.moves_pixels
    expected = augmentation.augmented(images, in_place)
    np.testing.assert_array_equal(augmentation.augmented(images, draws), expected)
    rows = train_rows(draws, slice(0, 9), slice(None))
    assert not rows.moves_pixels
    np.testing.assert_array_equal(augmented(torch.from_numpy(images), rows).numpy(), expected)
    assert train_rows(in_place, slice(0, 9), slice(None)).moves_pixels
