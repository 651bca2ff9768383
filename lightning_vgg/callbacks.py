"""Keeping the run folder during a training."""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_vgg.data import ImageData
from lightning_vgg.experiment.curves import draw_curves
from lightning_vgg.experiment.hardware import process_seconds, processor_name, resident_memory
from lightning_vgg.experiment.pretrained import file_sha256
from lightning_vgg.experiment.runs import HISTORY_COLUMNS, RunFolder, epoch_line
from lightning_vgg.transfer import count_parameters
from lightning_vgg.vgg import VGGClassifier


class RunRecorder(ModelCheckpoint):
    """Writes history.csv, curves.png, run.json and the checkpoints of a run.

    The best checkpoint is the first with the highest validation accuracy; without validation images, the last.
    It is a ModelCheckpoint since order matters: an epoch's row is on disk before the checkpoint that comes after it,
    so a run killed between the two repeats the epoch and replaces the row.

    Args:
        run: the folder.
        validated: whether there are validation images.
        echo: print a line an epoch.
    """

    def __init__(self, run: RunFolder, validated: bool, echo: bool) -> None:
        super().__init__(
            dirpath=run.checkpoints,
            filename="best_step{step}",
            monitor="val_acc" if validated else None,
            mode="max",
            save_last=True,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.run = run
        self.echo = echo
        self.images_per_second: list[float] = []
        self.startup_seconds: float | None = None
        self.generators: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.generators is not None:
            torch.set_rng_state(self.generators["cpu"])
            torch.cuda.set_rng_state_all(self.generators["cuda"])
        if trainer.is_global_zero:
            self.run.update_record(**describe_run(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Dropout's chance goes into the checkpoint, too: a resumed run draws the masks it would have drawn."""
        generators = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        return {**super().state_dict(), "generators": generators}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.generators = state_dict["generators"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.startup_seconds is None:
            self.startup_seconds = process_seconds()
        if trainer.is_last_batch:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.train_seconds = time.perf_counter() - self.epoch_started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._record_epoch(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def _record_epoch(self, trainer: Trainer) -> None:
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        measured = {key: value.item() for key, value in trainer.callback_metrics.items() if key in HISTORY_COLUMNS}
        row |= measured | {"seconds": round(time.perf_counter() - self.epoch_started, 3)}
        row = {key: row[key] for key in HISTORY_COLUMNS if key in row}
        self.run.write_history(row)
        self.draw_curves()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        images = min(trainer.num_training_batches * data.spec.batch_size, data.count("train"))
        self.images_per_second.append(images / self.train_seconds)
        assert self.startup_seconds is not None  # an epoch has a first step
        self.run.update_record(
            startup_seconds=round(self.startup_seconds, 2),
            images_per_second=round(statistics.median(self.images_per_second), 1),
            peak_memory_bytes=peak_memory(),
        )
        if self.echo:
            print(epoch_line(row, trainer.max_epochs), flush=True)

    def draw_curves(self) -> None:
        """Draw history.csv anew, the test accuracy included once it is known."""
        title = f"{self.run.path.parent.name} · {self.run.path.name}"
        test_acc = self.run.read_record().get("test_acc")
        self.run.write_curves(lambda file: draw_curves(self.run.read_history(), title, test_acc, file))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VGGClassifier)
        if not trainer.is_global_zero:
            return
        labels, logits = (torch.cat(parts).numpy() for parts in zip(*pl_module.test_outputs, strict=True))
        self.run.write_predictions(labels, logits)
        self.run.update_record(
            checkpoint=str(trainer.ckpt_path),
            test_loss=trainer.callback_metrics["test_loss"].item(),
            test_acc=trainer.callback_metrics["test_acc"].item(),
            test_acc_per_class=pl_module.test_acc_per_class,
        )
        if self.run.read_history():
            self.draw_curves()


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """What run.json says of a run before its results are known."""
    module, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(module, VGGClassifier) and isinstance(data, ImageData)
    parameters = list(module.network.parameters())
    device = module.device
    start = module.spec.init_from
    return {
        "framework": "lightning",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "seed": data.seed,
        "semantics": module.spec.semantics,
        "semantics_except": module.spec.semantics_except,
        "initial_weights_sha256": file_sha256(Path(start)) if start else None,
        **data.dataset.describe(),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable_parameters": count_parameters(module.network, frozen=False),
        "frozen_parameters": count_parameters(module.network, frozen=True),
        **({"backbone": module.pretrained.description} if module.pretrained else {}),
    }


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of the process."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_memory()
