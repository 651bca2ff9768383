"""No step of a training makes the host wait for a GPU: waits are counted on a stand-in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import only_run, run_here
from made_images import noise
from stand_in_gpu import DEVICE, Waits, pinned, stand_in_gpu

from lightning_vgg.training import callbacks

SMALL = """
    --data.source digits --data.image_size 8 --data.batch_size 8 --data.eval_batch_size 8 --data.validation_fraction 0.5
    --model.network.filters [4] --model.network.units [8] --trainer.max_epochs 1
    --trainer.logger csv --trainer.inference_mode false
"""
"""The stand-in's tensors know no inference mode."""


@pytest.fixture
def values() -> torch.Tensor:
    return torch.tensor([3, 1, 2])


HOST_WAITS: dict[str, Callable[[torch.Tensor], Any]] = {
    "aten::_local_scalar_dense": lambda there: there.sum().item(),
    "aten::equal": lambda there: torch.equal(there, there),
    "aten::bincount": lambda there: torch.bincount(there, minlength=9),
    "aten::nonzero": lambda there: there.nonzero(),
    "aten::index": lambda there: there[there > 1],
    "a copy to the host": lambda there: there.tolist(),
    "a copy from memory that is not pinned": lambda there: torch.tensor(1.0, device=there.device),
}
HOST_GOES_ON: list[Callable[[torch.Tensor], Any]] = [
    lambda there: torch.where(there > 1, 7, there) + torch.arange(3, device=there.device),
    lambda there: there[there - 1].masked_fill_(there > 2, 0),
    lambda there: pinned(torch.ones(3)).to(there.device, non_blocking=True),
    lambda there: torch.full((), 3, device=there.device) * there.clone(),
]


def test_the_stand_in_knows_what_makes_the_host_wait(values: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_gpu(monkeypatch) as waits:
        there = pinned(values).to(DEVICE, non_blocking=True)
        for goes_on in HOST_GOES_ON:
            goes_on(there)
        assert not waits
        for number, wait in enumerate(HOST_WAITS.values(), start=1):
            wait(there)
            assert waits.total() == number
        assert [reason.partition(" in ")[0] for reason in waits] == list(HOST_WAITS)
        assert there.tolist() == values.tolist()


SETTINGS = {
    "habits": "--model.network.conv_block 'conv(l2 1e-4) - batch norm - maxpool - dropout' "
    "--data.class_weight balanced --model.optimizer.ema 0.9 --trainer.gradient_clip_val 1 "
    "--trainer.accumulate_grad_batches 2 --trainer.enable_progress_bar true",
    "tricks": "--model.network.conv_block 'conv(2x2) - batch norm - maxpool' --model.network.filters [24] "
    "--model.optimizer.name sgd --model.optimizer.momentum 0.9 --model.optimizer.nesterov true "
    "--model.tricks.whitening true --model.tricks.muon_rate 0.2 --model.tricks.lookahead true "
    "--model.tricks.test_time_augmentation mirror_and_shift --data.augmentation.flip alternating "
    "--data.augmentation.shift 1 --data.augmentation.cutout 2 --data.augmentation.rotation 0.1 "
    "--data.augmentation.contrast 0.1 --data.augmentation.erasing 0.5 --data.augmentation.mixup 0.2 "
    "--data.augmentation.cutmix 1",
    "images of a file": "--data.source folder --data.root {photos} --data.memory 0 --data.augmentation.mixup 0.2",
    "features": "--model.backbone.weights {run} --model.backbone.layer block1_pool "
    "--model.network.conv_block 'batch norm'",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise(tmp_path_factory.mktemp("photos") / "set", size=8, train=100, test=48)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first block is frozen below others."""
    folder = tmp_path_factory.mktemp("backbone")
    run_here(folder)(f"fit {SMALL} --data.train_images 16 --model.network.filters [4,4]")
    return only_run(folder)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_host_waits_as_often_for_many_steps_as_for_few(
    settings: str, photos: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "LOOK_SECONDS", math.inf)  # then it looks at the first step alone
    settings = settings.format(photos=photos, run=backbone)
    few, many = (waits_of_fit(settings, batches, tmp_path, monkeypatch) for batches in (3, 6))
    assert few == many
    assert any("callbacks.py" in wait for wait in few)  # a training is really looked at


def waits_of_fit(settings: str, batches: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Waits:
    """Of a training that has so many batches to train on, to validate and to test."""
    count = f"--data.train_images {2 * 8 * batches} --trainer.limit_test_batches {batches}"
    with stand_in_gpu(monkeypatch) as waits:
        run_here(folder)(f"fit {SMALL} {settings} {count} --data.cache_dir cache{batches}")
    return waits
