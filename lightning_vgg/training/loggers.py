"""Names of loggers -> Lightning's loggers, all of which write into the run folder."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.specs import LoggerName
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.tracking import summary, wandb_arguments


def build_loggers(names: Iterable[LoggerName], run: RunFolder, experiment: str, settings: PlainDict) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: which.
        run: its folder.
        experiment: what W&B groups it by.
        settings: all of the experiment, for W&B.
    """
    loggers: list[Logger] = []
    for name in names:
        match name:
            case "wandb":
                loggers.append(_wandb_logger(run, experiment, settings))
            case "tensorboard":
                loggers.append(TensorBoardLogger(run.path, "tensorboard", version="", default_hp_metric=False))
            case "csv":  # a resumed run gets the next version: an earlier file would be overwritten
                loggers.append(CSVLogger(run.path, "csv"))
    return loggers


def _wandb_logger(run: RunFolder, experiment: str, settings: PlainDict) -> WandbLogger:
    arguments = wandb_arguments(run, experiment, "lightning", settings)
    logger = WandbLogger(save_dir=arguments.pop("dir"), **arguments)
    logger._wandb_init.pop("anonymous", None)  # lightning always passes it, and wandb 0.31 warns of it
    return logger


def log_summary(loggers: Iterable[Logger], run: RunFolder) -> None:
    """Put what of the run is no curve into the summary of W&B."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(summary(run))
