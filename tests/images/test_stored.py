"""Images that stay in a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, history_without_seconds, only_run, run_here
from made_images import encoded, write
from PIL import Image

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec
from lightning_vgg.images import stored
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.dataset import Dataset, load_dataset
from lightning_vgg.images.stored import MappedFile, StoredImages, in_memory
from lightning_vgg.training.augmentation import train_rows
from lightning_vgg.training.data import DeviceImages
from lightning_vgg.training.read_ahead import ReadAhead, announced

SIZE = 8


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in two classes of different brightness: 40 images to train on, 10 to test."""
    rng = np.random.default_rng(0)

    def noise(label: int) -> bytes:
        pixels = rng.integers(60 * label, 196 + 60 * label, (SIZE, SIZE, 3), dtype=np.uint8)
        return encoded(Image.fromarray(pixels), "PNG")

    counts = {"train": 20, "test": 5}
    files = {
        f"{part}/{name}/{number}.png": noise(label)
        for part, count in counts.items()
        for label, name in enumerate(("dark", "light"))
        for number in range(count)
    }
    return write(tmp_path_factory.mktemp("photos") / "set", files)


def dataset(photos: Path, memory: float | None, **settings: object) -> Dataset:
    spec = DataSpec("folder", str(photos), SIZE, cache_dir=str(photos.parent / "cache"), memory=memory)
    return load_dataset(replace(spec, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{}, {"grayscale": True}, {"train_images": 11, "validation_fraction": 0.3}])
def test_they_are_the_same_images(settings: dict[str, object], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_CHUNK", 3 * SIZE**2 * 4)  # several chunks, the last one smaller
    held, kept = dataset(photos, None, **settings), dataset(photos, 0, **settings)
    assert held.fingerprint == kept.fingerprint
    assert held.normalization == kept.normalization
    for part, (images, labels) in kept.parts.items():
        assert isinstance(images, StoredImages)
        there = held.parts[part].images
        assert isinstance(there, np.ndarray)
        assert (images.shape, images.dtype, images.nbytes, len(images)) == (
            there.shape,
            there.dtype,
            there.nbytes,
            len(there),
        )
        np.testing.assert_array_equal(labels, held.parts[part].labels)
        np.testing.assert_array_equal(in_memory(images), there)
        rows = np.array([len(there) - 1, 0, 0])
        np.testing.assert_array_equal(images[rows], there[rows])
        np.testing.assert_array_equal(images[2:5], there[2:5])
        np.testing.assert_array_equal(images[1], there[1])


def test_statistics_of_several_chunks_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_CHUNK", 500)
    images = np.random.default_rng(1).integers(0, 256, (50, 5, 5, 3), dtype=np.uint8)
    found = Normalization.of(images)
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)), rtol=1e-14)
    np.testing.assert_allclose(found.std, images.std((0, 1, 2)), rtol=1e-14)


@pytest.mark.parametrize("program", ["lightning-vgg", "keras-reference"])
def test_a_training_from_the_file_is_the_same_training(program: str, photos: Path, tmp_path: Path) -> None:
    folders = {memory: tmp_path / memory for memory in ("0", "1")}
    for memory, folder in folders.items():
        folder.mkdir()
        run_here(folder, program)(
            f"fit -c {CONFIGS}/vgg/base.yaml --data.source folder --data.image_size {SIZE} --data.memory {memory} "
            "--data.batch_size 7 --data.eval_batch_size 4 --data.augmentation.flip true --data.augmentation.shift 1 "
            "--data.augmentation.mixup 0.3 --trainer.max_epochs 2 --trainer.logger false",
            *("--data.root", photos, "--data.cache_dir", photos.parent / "cache"),
        )
    histories = [history_without_seconds(only_run(folder)) for folder in folders.values()]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("settings", [{}, {"brightness": 0.5}, {"flip": True}])
def test_a_batch_from_the_file_is_the_same_batch(settings: dict[str, Any], photos: Path) -> None:
    batches = []
    for memory in (None, 0):
        images = dataset(photos, memory)
        part, device = images.train, torch.device("cpu")
        rows = train_rows(draw_epoch(0, 0, 36, SIZE, AugmentationSpec(**settings)), slice(0, 7), slice(None))
        on_device = DeviceImages(part, images.normalization, device, torch.float32)
        batches.append(on_device.training_batch(on_device.fetch(rows), cutout=0, classes=2))
    for held, kept in zip(*batches, strict=True):
        torch.testing.assert_close(kept, held, rtol=0, atol=0)


def test_a_batch_is_read_while_the_one_before_it_is_trained_on() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    reader = ReadAhead(images, pinned=False)
    batches = [torch.tensor([4, 0]), torch.tensor([1]), torch.tensor([3, 3])]
    given = []
    for number, batch in enumerate(announced(batches, reader.expect)):
        assert len(reader._expected) == (number < 2)
        given.append(reader.take(batch)[:, 0, 0, 0].tolist())
        if number == 0:  # a training that is left and taken up again asks for another batch than was expected
            assert reader.take(torch.tensor([2]))[0, 0, 0, 0] == 2
    assert given == [[4, 0], [1], [3, 3]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which pages are a process's own")
@pytest.mark.parametrize("gives_back", [True, False])
def test_pages_that_were_read_are_given_back(gives_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resident() -> float:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
        return int(line.split()[1]) / 1024

    monkeypatch.setattr(stored, "_RESIDENT", 2**24 if gives_back else 2**40)
    with (tmp_path / "pixels").open("wb") as file:
        file.truncate(2**27)
    images = MappedFile(np.memmap(tmp_path / "pixels", np.uint8, "c", shape=(2**13, 2**14)))
    before = resident()
    for first in range(0, 2**13, 64):
        images[np.arange(first, first + 64)]
    assert (resident() - before < 40) == gives_back


def test_memory_is_a_number_of_gigabytes() -> None:
    with pytest.raises(ExperimentError, match=r"data\.memory is a number of GB, at least 0, not -1"):
        DataSpec(memory=-1)
