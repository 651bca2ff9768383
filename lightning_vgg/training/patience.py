"""Ending a training, and lowering its learning rate, where validation gets no better."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from lightning_vgg.experiment.patience import stopping_reason
from lightning_vgg.runs.folder import HISTORY_COLUMNS, RunFolder
from lightning_vgg.training.module import VGGClassifier


class Patience(Callback):
    """Follows the model's ``early_stopping`` and ``reduce_on_plateau``, and says in run.json why a run was stopped.

    A run that is resumed reads the epochs before from its history. One that was stopped does not train on.

    Args:
        run: the folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []
        self.validated = False
        self.reason: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Rows of later epochs are those of a run that was killed before it wrote their checkpoint.
        rows = self.run.read_history()[: trainer.current_epoch] if trainer.is_global_zero else []
        self.rows = trainer.strategy.broadcast(rows)
        self._stop_or_go_on(trainer, pl_module)
        self._set_rate(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = False
        self._set_rate(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = trainer.callback_metrics if self.validated else {}
        row = {name: value.item() for name, value in known.items() if name in HISTORY_COLUMNS}
        self.rows.append({"epoch": trainer.current_epoch + 1, **row})
        self._stop_or_go_on(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reason is not None and trainer.is_global_zero:
            self.run.update_record(stopped=self.reason)

    def _stop_or_go_on(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, VGGClassifier)
        self.reason = stopping_reason(module.spec.early_stopping, self.rows)
        trainer.should_stop = trainer.should_stop or self.reason is not None

    def _set_rate(self, trainer: Trainer, module: LightningModule) -> None:
        """Once more: the scheduler has set the rates of the next step already, by the factor of the epoch before."""
        assert isinstance(module, VGGClassifier)
        module.plateau_factor = module.spec.plateau_factor(self.rows)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, rate, factor in groups:
            group["lr"] = rate * factor(scheduler.last_epoch)
