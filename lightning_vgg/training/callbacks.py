"""Writing the run folder during a training."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_vgg.common.errors import Diverged
from lightning_vgg.common.interruption import SIGNALS, Interrupted
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.best import score
from lightning_vgg.runs.folder import AUGMENTED_TEST_ACC, HISTORY_COLUMNS, MEASURED, TESTED, RunFolder, epoch_line
from lightning_vgg.runs.machine import process_seconds, processor_name, resident_memory
from lightning_vgg.training.checkpoints import LAST, AtomicCheckpoints
from lightning_vgg.training.data import ImageData
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.transfer import count_parameters
from lightning_vgg.weights.pretrained import describe_start

CHECKPOINT_SECONDS = 600.0
"""Seconds between checkpoints inside an epoch: the most work that a kill can cost."""

LOOK_SECONDS = 10.0
"""Seconds between looks at the loss inside an epoch; each waits for the device, so they are not counted in steps."""


class RunRecorder(Checkpoint):
    """Writes history.csv, curves.png, run.json and the checkpoints of a run.

    ``last.ckpt`` is written after every epoch, inside one every CHECKPOINT_SECONDS, and before a signal ends the run;
    ``best_step<N>.ckpt`` after the first epoch with the best value of ``model.best_by`` (without validation images:
    after every epoch). An epoch's row is on disk before its checkpoints and the best checkpoint before the last one, so
    a run that is killed in between repeats the epoch and replaces what it finds.

    Args:
        run: the folder.
        validated: whether there are validation images.
        echo: print a line an epoch.
    """

    def __init__(self, run: RunFolder, validated: bool, echo: bool) -> None:
        self.run = run
        self.validated = validated
        self.echo = echo
        self.images_per_second: list[float] = []
        self.startup_seconds: float | None = None
        self.best: tuple[float, int] | None = None  # score and step
        self.epoch_seconds = 0.0  # of the epoch that a resumed run is in, before it was stopped
        self.bad_step: Tensor | None = None
        self.began = False
        self.validated_in_step: int | None = None
        self.train_seconds: float | None = None  # of the epoch, once its last batch is done

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpoints()
        self.run = RunFolder(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        self.began = True
        if trainer.is_global_zero:
            self.run.update_record(**describe_run(trainer))
        self.bad_step = torch.tensor(-1, device=pl_module.device)
        self.epoch_started = time.perf_counter() - self.epoch_seconds
        self.saved = time.monotonic()
        self.looked = -math.inf
        # Processes agree by way of their hosts: an answer by way of the devices would be waited for in every step.
        self.hosts = torch.distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        SIGNALS.install()  # lightning has put its own handler there
        self.signals = ExitStack()
        self.signals.enter_context(SIGNALS.deferred())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "signals"):
            self.signals.close()

    def state_dict(self) -> PlainDict:
        return {
            "best": self.best,
            "images_per_second": self.images_per_second,
            "epoch_seconds": time.perf_counter() - self.epoch_started,
        }

    def load_state_dict(self, state_dict: PlainDict) -> None:
        self.best = state_dict["best"]
        self.images_per_second = state_dict["images_per_second"]
        self.epoch_seconds = state_dict["epoch_seconds"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_started = time.perf_counter()
        self.train_seconds = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated_in_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        self._watch(trainer, outputs["loss"])
        if self.startup_seconds is None:
            self.startup_seconds = process_seconds()
        if trainer.is_last_batch:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self.train_seconds = time.perf_counter() - self.epoch_started
            self._refuse_bad_loss(trainer)
            return  # resumed here, lightning would skip the validation: what is due waits for the epoch's end
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients are in no checkpoint
        now = time.monotonic()
        signal, due, look = self._agreed(
            trainer, SIGNALS.received, now - self.saved >= CHECKPOINT_SECONDS, now - self.looked >= LOOK_SECONDS
        )
        if look:
            self._refuse_bad_loss(trainer)
            self.looked = now
        if signal or due:
            self._save(trainer)
        if signal:
            raise Interrupted(signal, str(self.run.checkpoints / LAST))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._record_epoch(trainer)
        assert isinstance(pl_module, VGGClassifier)
        by = pl_module.spec.best_by
        better = not self.validated
        if self._is_validated(trainer):
            value = score(trainer.callback_metrics[by].item(), by)
            better = self.best is None or value > self.best[0]
            if better:
                self.best = value, trainer.global_step
        elif self.best is None:  # until there is a validation, the last epoch is the best one
            better = True
        self._save(trainer, better)
        (signal,) = self._agreed(trainer, SIGNALS.received)
        if signal:
            raise Interrupted(signal, str(self.run.checkpoints / LAST))

    def _agreed(self, trainer: Trainer, *mine: int) -> list[int]:
        """The largest number of any process in place of each: checkpoints are written together."""
        if trainer.world_size == 1:
            return list(mine)
        numbers = torch.tensor(mine)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, self.hosts)  # type: ignore[arg-type]
        return numbers.tolist()

    def _watch(self, trainer: Trainer, loss: Tensor) -> None:
        """Note the first step with a loss that is not finite, on the device: looking at each would wait for a GPU."""
        assert self.bad_step is not None
        first = ~torch.isfinite(loss) & (self.bad_step < 0)
        self.bad_step = torch.where(first, trainer.global_step, self.bad_step)

    def _refuse_bad_loss(self, trainer: Trainer) -> None:
        """Before a checkpoint, and every so often."""
        step = int(trainer.strategy.reduce(self.bad_step, reduce_op="max"))
        if step < 0:
            return
        files = sorted(self.run.checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        raise Diverged.in_step(step, trainer.current_epoch + 1, files[-1] if files else None)

    def _save(self, trainer: Trainer, better: bool = False) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._refuse_bad_loss(trainer)
        if better:
            trainer.save_checkpoint(self.run.best_file(trainer.global_step))
        trainer.save_checkpoint(self.run.checkpoints / LAST)
        if better and trainer.is_global_zero:  # none before the new ones are there
            self.run.remove_other_bests(trainer.global_step)
        self.saved = time.monotonic()

    def _is_validated(self, trainer: Trainer) -> bool:
        """Whether there was a validation at the end of this epoch, and not of an earlier one or within it alone."""
        return self.validated and self.validated_in_step == trainer.global_step

    def _record_epoch(self, trainer: Trainer) -> None:
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        validated = self._is_validated(trainer)
        row |= {
            key: value.item()
            for key, value in trainer.callback_metrics.items()
            if key in MEASURED and (validated or not key.startswith("val_"))
        }
        row |= {"seconds": round(time.perf_counter() - self.epoch_started, 3)}
        row = {key: row[key] for key in HISTORY_COLUMNS if key in row}
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # max_steps may end an epoch early
        images = min(batches * data.spec.batch_size, data.count("train"))
        seconds = self.train_seconds or time.perf_counter() - self.epoch_started
        self.images_per_second.append(images / seconds)
        assert self.startup_seconds is not None  # an epoch has a first step
        module = trainer.lightning_module
        assert isinstance(module, VGGClassifier)
        confusion = module.confusion if validated else None
        memory = peak_memory(trainer.strategy.root_device)
        self.run.write_epoch(row, confusion, self.images_per_second, self.startup_seconds, memory)
        if self.echo:
            print(epoch_line(row, trainer.max_epochs, module.spec.best_by), flush=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VGGClassifier)
        labels, logits = gathered(pl_module.test_outputs)
        if not trainer.is_global_zero:
            return
        measured = (*TESTED, AUGMENTED_TEST_ACC)
        results = {key: trainer.callback_metrics[key].item() for key in measured if key in trainer.callback_metrics}
        self.run.write_test(trainer.ckpt_path, labels, logits, results)


def gathered(batches: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of all processes, in the order of the data set: each has every world_size-th image of a batch.

    A collective call; the result is for the first process.
    """
    shares = of_all_processes(batches)
    whole: list[list[Tensor]] = [[], []]
    for of_batch in zip(*shares, strict=True):
        for found, parts in zip(whole, zip(*of_batch, strict=True), strict=True):
            batch = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
            for rank, part in enumerate(parts):
                batch[rank :: len(shares)] = part
            found.append(batch)
    labels, logits = (torch.cat(parts).numpy() for parts in whole)
    return labels, logits


def of_all_processes(mine: Any) -> list[Any]:
    """The objects of all processes, in the order of their ranks; a collective call."""
    if not torch.distributed.is_initialized():
        return [mine]
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, mine)
    return shares


def describe_run(trainer: Trainer) -> PlainDict:
    """The entries of run.json that are known before the results."""
    module, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(module, VGGClassifier) and isinstance(data, ImageData)
    device = module.device
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
        **describe_start(module.spec, module.pretrained),
        **data.dataset.describe(),
        **count_parameters(module.network),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: of a GPU, else of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_memory()
