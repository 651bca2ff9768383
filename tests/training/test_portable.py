"""What other machines lack, by stand-ins: float64 on Apple's GPUs, signal handlers outside the main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode

import keras_reference
import lightning_vgg
from lightning_vgg.runs.folder import MEASURED, RunFolder
from lightning_vgg.training.module import VGGClassifier

SMALL = {
    "data.source": "digits",
    "data.train_images": 60,
    "model.network.filters": [4],
    "model.network.units": [],
    "trainer.max_epochs": 2,
    "trainer.logger": False,
}


class WithoutFloat64(TorchDispatchMode):
    """Raises what PyTorch raises on Apple's GPUs."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{operation}: the MPS framework doesn't support float64")
        return result


class Mps:
    """What a device says of itself."""

    type = "mps"


def test_a_device_without_float64_trains_and_measures_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = lightning_vgg.fit(SMALL, {"trainer.default_root_dir": tmp_path / "usual"})
    setup = VGGClassifier.setup

    def on_mps(self: VGGClassifier, stage: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(SingleDeviceStrategy, "root_device", Mps())
            setup(self, stage)

    monkeypatch.setattr(VGGClassifier, "setup", on_mps)
    for name in ("training_step", "validation_step", "on_train_epoch_end", "on_validation_epoch_end"):
        monkeypatch.setattr(VGGClassifier, name, refusing_float64(getattr(VGGClassifier, name)))
    without = lightning_vgg.fit(SMALL, {"trainer.default_root_dir": tmp_path / "without"})
    for row, other in zip(usual.read_history(), without.read_history(), strict=True):
        assert [other[name] for name in MEASURED] == pytest.approx([row[name] for name in MEASURED], rel=1e-6)


def refusing_float64(hook: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(*args: Any) -> Any:
        with WithoutFloat64():
            return hook(*args)

    return refusing


@pytest.mark.parametrize("package", [lightning_vgg, keras_reference])
def test_a_training_in_a_thread_of_somebodys_program(package: Any, tmp_path: Path) -> None:
    found: list[RunFolder | BaseException] = []

    def train() -> None:
        try:
            found.append(package.fit(SMALL, {"trainer.default_root_dir": tmp_path}))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    (run,) = found
    assert isinstance(run, RunFolder), run
    assert 0 <= run.test_acc <= 1
