"""``fit`` as a trial of a study: watched, never tested, on one device, without a line an epoch."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vgg.common.errors import Diverged
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.folder import Watch
from lightning_vgg.training.lightning_cli import ExperimentCLI


class StopWhere(Callback):
    """Stops after an epoch at which ``watch`` says so, or the loss is lost."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.callback_metrics["val_loss"].isfinite():  # the training's is not known yet
            raise Diverged(f"the validation loss is not finite in epoch {trainer.current_epoch + 1}")
        if self.watch(trainer.current_epoch + 1, trainer.callback_metrics["val_acc"].item()):
            trainer.should_stop = True


class TrialCLI(ExperimentCLI):
    def __init__(self, watch: Watch, **settings: Any) -> None:
        self.watch = watch
        super().__init__(**settings)

    def _trainer_arguments(self, config: Namespace) -> PlainDict:
        arguments = super()._trainer_arguments(config)
        *others, recorder = arguments["callbacks"]
        recorder.echo = False
        return {
            **arguments,
            "callbacks": [*others, StopWhere(self.watch), recorder],
            "devices": 1,  # the workers are the parallel ones; processes of a trial would each ask for trials
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }

    def before_fit(self) -> None:
        """Nothing is said of a trial."""

    def after_fit(self) -> None:
        """The test images are for the best trial."""
