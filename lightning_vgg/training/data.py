"""LightningDataModule: all images on the device as uint8, batches cut, augmented and normalized there.

Images that are too many for it stay in the host's memory or in a file, and go to the device batch by batch.

A loader here yields rows of the table of random draws (which images, augmented how): a few kilobytes a batch. Nothing
that is done with them makes the host wait for a GPU, so the host prepares the next steps while the GPU computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_vgg.experiment.draws import Draws, draw_epoch
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.images.batches import Normalization
from lightning_vgg.images.dataset import Split, load_dataset
from lightning_vgg.images.stored import MappedFile, StoredImages
from lightning_vgg.training.augmentation import TrainRows, augmented, inside, mixed, train_rows
from lightning_vgg.training.read_ahead import ReadAhead, announced


class EvalRows(NamedTuple):
    """An evaluation batch before it is cut: which images, int64 (B,); ``fetched`` as in `TrainRows`."""

    image: Tensor
    fetched: Tensor | None = None


Rows = TypeVar("Rows", TrainRows, EvalRows)
Announce = Callable[[TrainRows | EvalRows], None]


def ignore(_: TrainRows | EvalRows) -> None:
    """Nothing is read ahead of images that are all there."""


class TrainLoader:
    """This process's share of every batch of the epoch; keeps its position, to resume inside an epoch."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        draw: Callable[[int], Draws],
        epoch: Callable[[], int],
        share: slice,
        announce: Announce = ignore,
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.draw = draw
        self.epoch = epoch
        self.share = share
        self.announce = announce
        self.place = {"epoch": 0, "position": 0}  # batches taken so far

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[TrainRows]:
        epoch = self.epoch()
        # The place belongs to its epoch: one that was left early (trainer.limit_train_batches) does not shift the next.
        first = self.place["position"] % len(self) if self.place["epoch"] == epoch else 0
        draws = self.draw(epoch)
        starts = range(first * self.batch_size, self.count, self.batch_size)
        batches = (train_rows(draws, slice(start, start + self.batch_size), self.share) for start in starts)
        for position, rows in enumerate(announced(batches, self.announce), first + 1):
            self.place = {"epoch": epoch, "position": position}
            yield rows

    def state_dict(self) -> dict[str, int]:
        return self.place

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state


class EvalLoader:
    """All images in order, each exactly once over all processes; the last batch may be smaller."""

    def __init__(self, count: int, batch_size: int, share: slice, announce: Announce = ignore) -> None:
        self.count = count
        self.batch_size = batch_size
        self.share = share
        self.announce = announce

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[EvalRows]:
        starts = range(0, self.count, self.batch_size)
        ends = (min(start + self.batch_size, self.count) for start in starts)
        batches = (EvalRows(torch.arange(*rows)[self.share]) for rows in zip(starts, ends, strict=True))
        yield from announced(batches, self.announce)


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes leave at least half of a GPU's free memory to the training; true of other devices."""
    return device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2


def copies_from_pinned(device: torch.device) -> bool:
    """Whether a device copies from pinned memory while the host goes on; from other memory the host has to wait."""
    return device.type == "cuda"


class OnDevice(ABC):
    """What the batches of a part are made of, and its labels (N,).

    Attributes:
        reader: of what is not on the device; None where all is.
    """

    labels: Tensor
    reader: ReadAhead | None

    @abstractmethod
    def evaluation_batch(self, rows: EvalRows) -> tuple[Tensor, Tensor]:
        """float (B, C, ...), its channels last in memory, and labels int64 (B,)."""

    @abstractmethod
    def training_batch(self, rows: TrainRows, cutout: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same, augmented, and the masks' keys int64 (B,). Labels of mixed images are shares (B, classes)."""

    def expect(self, rows: TrainRows | EvalRows) -> None:
        """This will be the batch after the next one."""
        if self.reader is not None:
            self.reader.expect(rows.image)

    def fetch(self, rows: Rows) -> Rows:
        """A batch's rows, still on the host, with what of its images is not on the device."""
        return rows if self.reader is None else rows._replace(fetched=self.reader.take(rows.image))

    def chosen(self, image: Tensor) -> Tensor:
        """As the first of `evaluation_batch`, of images whose numbers are on the host, int64 (B,)."""
        rows = move_data_to_device(self.fetch(EvalRows(image)), self.labels.device)
        return self.evaluation_batch(rows)[0]


class DeviceImages(OnDevice):
    """uint8 images (N, S, S, C), and the arithmetic that makes float batches of them on a device.

    Images of a file stay there, and images that would fill more than half of a GPU stay with the host.
    """

    def __init__(self, part: Split, normalization: Normalization, device: torch.device, dtype: torch.dtype) -> None:
        self.images: Tensor | None = None
        self.reader = None
        if isinstance(part.images, StoredImages) or not has_room(device, part.images.nbytes):
            self.reader = ReadAhead(part.images, copies_from_pinned(device))
        else:
            self.images = torch.from_numpy(part.images).to(device)
        self.labels = torch.from_numpy(part.labels).to(device)
        self.size: int = part.images.shape[1]
        self.channels: int = part.images.shape[3]
        # Repeated for every pixel: one flat broadcast is several times as fast as one over three channels.
        mean, scale = normalization.constants(np.float64 if dtype == torch.float64 else np.float32)
        self.mean, self.scale = (torch.from_numpy(values).repeat(self.size**2).to(device) for values in (mean, scale))
        self.dtype = dtype

    def evaluation_batch(self, rows: EvalRows) -> tuple[Tensor, Tensor]:
        """float (B, C, S, S), its channels last in memory, and labels int64 (B,)."""
        pixels = rows.fetched
        if pixels is None:
            assert self.images is not None
            pixels = self.images.index_select(0, rows.image)
        return self._normalized(pixels), self.labels[rows.image]

    def training_batch(self, rows: TrainRows, cutout: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """As :func:`lightning_vgg.images.batches.training_batch`, bit for bit, but the images (B, C, S, S); and the
        masks' keys (B,).
        """
        batch = self._normalized(self._augmented(rows))
        labels, mask_keys = self.labels[rows.image], rows.mask_key
        if cutout:
            first = rows.cutout - cutout // 2
            batch.masked_fill_(inside(first, first + cutout, self.size)[:, None], 0)  # not a copy: channels stay last
        if rows.erased is not None:
            batch.masked_fill_(inside(rows.erased[:, 0], rows.erased[:, 1], self.size)[:, None], 0)
        if rows.mixing is not None:
            batch, labels = mixed(batch.permute(0, 2, 3, 1), labels, rows.mixing, classes)
            batch, mask_keys = batch.permute(0, 3, 1, 2), mask_keys[rows.mixing.own]
        return batch, labels, mask_keys

    def _augmented(self, rows: TrainRows) -> Tensor:
        if rows.fetched is not None:
            if not rows.moves_pixels and rows.contrast is None and rows.brightness is None:
                return rows.fetched  # which need not be copied once more
            places = torch.arange(len(rows.fetched), device=rows.fetched.device)
            return augmented(rows.fetched, rows._replace(image=places))
        assert self.images is not None
        return augmented(self.images, rows)

    def _normalized(self, pixels: Tensor) -> Tensor:
        flat = pixels.view(-1, self.mean.numel()).to(self.mean.dtype).sub_(self.mean).mul_(self.scale)
        return flat.view(-1, self.size, self.size, self.channels).permute(0, 3, 1, 2).to(self.dtype)


class DeviceFeatures(OnDevice):
    """A frozen network's features of the images, float (N, ..., C), in place of `DeviceImages`.

    Memory-mapped features stay on the disk unless a GPU has room for them.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        self.file = MappedFile(features)
        self.features = torch.from_numpy(self.file.array)
        self.labels = torch.from_numpy(labels).to(device)
        self.reader = None
        if device.type == "cuda" and has_room(device, features.nbytes):
            self.features = self.features.to(device)
        elif device.type != "cpu":
            self.reader = ReadAhead(self.file, copies_from_pinned(device))

    def evaluation_batch(self, rows: EvalRows) -> tuple[Tensor, Tensor]:
        return self._gather(rows)

    def training_batch(self, rows: TrainRows, cutout: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Any change of the images would come too late."""
        return *self._gather(rows), rows.mask_key

    def _gather(self, rows: TrainRows | EvalRows) -> tuple[Tensor, Tensor]:
        batch = rows.fetched
        if batch is None:
            batch = self.features.index_select(0, rows.image)
            if batch.device.type == "cpu":
                self.file.used(batch.nbytes)
        return batch.movedim(-1, 1), self.labels[rows.image]


class ImageData(LightningDataModule):
    """Training, validation and test images of an experiment.

    Args:
        experiment: the images, and the seed of the order and the augmentation; the validation images do not depend on
            the seed.
        normalization: None for mean 0 and deviation 1 over the training images.

    Attributes:
        dataset: the images as numpy has them.
    """

    def __init__(self, experiment: ExperimentSpec, normalization: Normalization | None = None) -> None:
        super().__init__()
        self.spec = experiment.data
        self.seed = experiment.seed_everything
        self.dataset = load_dataset(self.spec, normalization)
        self._on_device: dict[str, OnDevice] = {}
        self._place: dict[str, int] = {}
        self._train_loader: TrainLoader | None = None

    @property
    def num_classes(self) -> int:
        return len(self.dataset.class_names)

    def count(self, part: str) -> int:
        """Images in ``train``, ``val`` or ``test``."""
        return len(self.part(part).labels)

    def part(self, part: str) -> Split:
        return self.dataset.parts[part]

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch. Lightning keeps a loader's own state, too, but gives it to no loader that was asked
        for already, as it is where the schedule asks for the number of steps.
        """
        return self._train_loader.state_dict() if self._train_loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._place = state_dict

    def train_dataloader(self) -> TrainLoader:
        self._train_loader = TrainLoader(
            self.count("train"),
            self.spec.batch_size,
            draw=lambda epoch: draw_epoch(
                self.seed, epoch, self.count("train"), self.spec.image_size, self.spec.augmentation
            ),
            epoch=lambda: self.trainer.current_epoch if self.trainer is not None else 0,
            share=self._share(),
            announce=partial(self._expect, "train"),
        )
        if self._place:
            self._train_loader.load_state_dict(self._place)
        return self._train_loader

    def val_dataloader(self) -> EvalLoader | list[Any]:
        return self._eval_loader("val") if self.count("val") else []

    def test_dataloader(self) -> EvalLoader:
        return self._eval_loader("test")

    def _eval_loader(self, part: str) -> EvalLoader:
        return EvalLoader(self.count(part), self.spec.eval_batch_size, self._share(), partial(self._expect, part))

    def _expect(self, part: str, rows: TrainRows | EvalRows) -> None:
        if part in self._on_device:
            self._on_device[part].expect(rows)

    def _share(self) -> slice:
        """Every world_size-th row of a batch."""
        return slice(self.trainer.global_rank, None, self.trainer.world_size) if self.trainer else slice(None)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """To the rows, still on the host, comes what of their images is not on the device."""
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        batch = self.images(self._part_of(batch), device).fetch(batch)
        return apply_to_collection(batch, Tensor, Tensor.pin_memory) if copies_from_pinned(device) else batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Where there is no way to go, Lightning's own still looks at each column, in every step."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images = self.images(self._part_of(batch), batch.image.device)
        if isinstance(batch, TrainRows):
            return images.training_batch(batch, self.spec.augmentation.cutout, self.num_classes)
        return images.evaluation_batch(batch)

    def _part_of(self, batch: TrainRows | EvalRows) -> str:
        if isinstance(batch, TrainRows):
            return "train"
        assert self.trainer is not None
        return "test" if self.trainer.testing else "val"

    def feed_features(self, part: str, features: np.ndarray, device: torch.device) -> None:
        """From now on batches of a part are made of its features (N, ..., C)."""
        self._on_device[part] = DeviceFeatures(features, self.part(part).labels, device)

    def feed_images(self) -> None:
        """From now on batches are made of images again."""
        self._on_device.clear()

    def has_features(self, part: str) -> bool:
        return isinstance(self._on_device.get(part), DeviceFeatures)

    def images(self, part: str, device: torch.device) -> OnDevice:
        """What the batches of a part are cut from."""
        if part not in self._on_device:
            assert self.trainer is not None and self.trainer.lightning_module is not None
            dtype = self.trainer.lightning_module.dtype
            assert isinstance(dtype, torch.dtype)
            self._on_device[part] = DeviceImages(self.part(part), self.dataset.normalization, device, dtype)
        return self._on_device[part]
