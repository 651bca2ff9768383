"""Every argument of Lightning's trainer: what it does here, and which values are refused. docs/trainer.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.experiment.specs import TrainerSpec

_STRATEGIES = ("DDPStrategy", "SingleDeviceStrategy")


@dataclass(frozen=True)
class Flag:
    """One argument of ``lightning.pytorch.Trainer``.

    Attributes:
        meaning: what it does, or why values are refused and what to use instead.
        allowed: the values that are taken; None: all that Lightning takes.
    """

    meaning: str
    allowed: tuple[object, ...] | None = None


FLAGS = {
    "accelerator": Flag("The device: auto, cpu, gpu or mps."),
    "strategy": Flag(
        "Training on several devices is ddp. Others shard or wrap the network, whose layers are found here by their "
        "names.",
        ("auto", "ddp", "ddp_find_unused_parameters_true"),
    ),
    "devices": Flag("How many devices, or which; each gets its part of every batch."),
    "num_nodes": Flag("How many machines."),
    "precision": Flag(
        "Single, double, or bfloat16 beside single. In 16-mixed, gradients would be clipped before they are unscaled.",
        (None, "32-true", "64-true", "bf16-mixed", "32", "64", "bf16", 32, 64),
    ),
    "logger": Flag("wandb, tensorboard, csv, a list of these, or a class of Lightning's; false for none."),
    "callbacks": Flag("Callbacks of Lightning's or your own, by class path. What they monitor has to be measured."),
    "fast_dev_run": Flag("So many batches of each part, to see that all runs; nothing is kept."),
    "max_epochs": Flag("Epochs to train. The learning rate's schedule spans them."),
    "min_epochs": Flag("Epochs to train before a callback may stop the training."),
    "max_steps": Flag("Optimizer steps to train at most. The schedule ends there."),
    "min_steps": Flag("Steps to train before a callback may stop the training."),
    "max_time": Flag("Time to train at most. The schedule is that of all epochs."),
    "limit_train_batches": Flag("Batches in an epoch, of all of them in another order each time."),
    "limit_val_batches": Flag("Batches of each validation; 0 for no validation."),
    "limit_test_batches": Flag("Batches of the test: test_predictions.npz then holds fewer images."),
    "limit_predict_batches": Flag("lightning-vgg predict takes files: name fewer.", (None, 1.0, 1)),
    "overfit_batches": Flag(
        "It would draw other images in each epoch: use --data.train_images N to train on the same few.", (0.0, 0)
    ),
    "val_check_interval": Flag(
        "When to validate. A row of the history has what was measured at the end of its epoch, else an empty cell."
    ),
    "check_val_every_n_epoch": Flag("When to validate; epochs without validation have an empty cell in the history."),
    "num_sanity_val_steps": Flag("Batches of the validation before the training; none by default."),
    "log_every_n_steps": Flag("For callbacks that log by the step. The curves have a point for each epoch."),
    "enable_checkpointing": Flag(
        "The best checkpoint is the one that is tested, so there has to be one.", (None, True)
    ),
    "enable_progress_bar": Flag("null for a bar on a terminal, and a line for each epoch elsewhere."),
    "enable_model_summary": Flag("null for a table of the layers where there is a progress bar."),
    "accumulate_grad_batches": Flag("Batches whose gradients are averaged for one step."),
    "gradient_clip_val": Flag("Largest norm of all gradients together; null for no clipping."),
    "gradient_clip_algorithm": Flag(
        "Gradients are clipped by their norm; clipping each by its value is not implemented.", (None, "norm")
    ),
    "deterministic": Flag("Refuse operations that are not deterministic. On a CPU all are."),
    "benchmark": Flag("Let cuDNN try which kernels are fastest."),
    "inference_mode": Flag("Evaluate without any record for gradients."),
    "use_distributed_sampler": Flag("Each process has its part of a batch already.", (True,)),
    "profiler": Flag("Lightning's profilers: simple and advanced print at the end where the time went."),
    "detect_anomaly": Flag("Name the operation whose gradient is not a number; slow."),
    "barebones": Flag("It turns off what a run is kept by: checkpoints and the history.", (False,)),
    "plugins": Flag("Precision, checkpoints and processes are set by the other settings.", (None, [])),
    "sync_batchnorm": Flag("Batch norm over all devices; needs GPUs, and torch's unbiased variance."),
    "reload_dataloaders_every_n_epochs": Flag("The images do not change during a training.", (0,)),
    "default_root_dir": Flag("Folder in which runs/ is made."),
    "enable_autolog_hparams": Flag("All settings are in config.yaml, and in W&B.", (True,)),
    "model_registry": Flag("Runs are kept in their folders; share them by lightning-vgg export.", (None,)),
}

SHARED = tuple(field.name for field in fields(TrainerSpec))
"""Those that the Keras reference has, too; it refuses all others by name."""


def refuse_flags(trainer: Mapping[str, object]) -> None:
    """Refuse settings of Lightning's trainer that would not mean here what they say.

    Args:
        trainer: plain values, by name.

    Raises:
        ExperimentError: with the setting, its value, and what to use instead.
    """
    for name, flag in FLAGS.items():
        if name in trainer and not _is_allowed(name, trainer[name], flag):
            raise ExperimentError(f"trainer.{name}: {trainer[name]} is not supported. {flag.meaning}")
    for name in ("limit_train_batches", "limit_test_batches"):
        if trainer.get(name) is not None and trainer[name] == 0:
            raise ExperimentError(f"trainer.{name}: 0 leaves nothing to do; leave it out")
    if trainer.get("max_epochs") in (None, -1) and trainer.get("max_steps", -1) == -1:
        raise ExperimentError(
            "trainer.max_epochs: -1 leaves the learning rate's schedule without an end. Set trainer.max_epochs or "
            "trainer.max_steps; trainer.max_time may end the training before"
        )


def require_loggers(trainer: TrainerSpec) -> None:
    """Raise ExperimentError if the package of a logger is missing."""
    if "tensorboard" in trainer.loggers:
        require("tensorboard", "tensorboard")


def _is_allowed(name: str, value: object, flag: Flag) -> bool:
    if name == "strategy" and not isinstance(value, str):  # a class with arguments
        return str(getattr(value, "class_path", value)).rpartition(".")[2] in _STRATEGIES
    return flag.allowed is None or value in flag.allowed


def flags_table() -> str:
    """The table in docs/trainer.md: each argument, which values are taken, what it does, and whether Keras has it."""
    lines = ["| setting | values | what it does | Keras |", "| --- | --- | --- | --- |"]
    for name, flag in FLAGS.items():
        values = "all" if flag.allowed is None else f"`{yaml.safe_dump(flag.allowed[-1]).split()[0]}` alone"
        values = ", ".join(f"`{value}`" for value in flag.allowed or () if isinstance(value, str)) or values
        lines.append(f"| `{name}` | {values} | {flag.meaning} | {'yes' if name in SHARED else 'refused'} |")
    return "\n".join(lines)
