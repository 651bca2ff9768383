"""An experiment as plain settings: as config.yaml keeps it, and what of it must not change when a run is continued."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lightning_vgg.common.addresses import is_address, without_secrets
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.parsing import read_experiment, read_settings
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder


def plain_settings(experiment: ExperimentSpec, trainer: Mapping[str, object] | None = None) -> PlainDict:
    """All settings, nested, without names of people and without passwords.

    Args:
        experiment: what is described.
        trainer: settings that Lightning's trainer alone reads.
    """
    settings = asdict(experiment)
    settings["trainer"] |= trainer or {}
    return _impersonal(settings)


def config_text(experiment: ExperimentSpec, trainer: Mapping[str, object] | None = None) -> str:
    """The text of config.yaml, which trains the experiment again; arguments as `plain_settings`."""
    return as_yaml(plain_settings(experiment, trainer))


def as_yaml(settings: Mapping[str, object]) -> str:
    """As this project writes YAML: keys in their order, lines of 110 characters."""
    return yaml.safe_dump(settings, sort_keys=False, width=110)


def _impersonal(value: Any) -> Any:
    """Paths below the home folder begin with ~, addresses hold no password: a run folder can be passed on.

    An archive that was downloaded with a password lies in the cache, where the run finds it again.
    """
    if isinstance(value, dict):
        return {key: _impersonal(inner) for key, inner in value.items()}
    home = f"{Path.home()}{os.sep}"
    if isinstance(value, str) and value.startswith(home):
        return f"~{os.sep}{value.removeprefix(home)}"
    return without_secrets(value) if isinstance(value, str) and is_address(value) else value


def dotted(values: object, prefix: str = "") -> PlainDict:
    """Nested settings as one level of dotted keys; an empty mapping is a value."""
    if not isinstance(values, dict) or not values:
        return {prefix.removesuffix("."): values}
    return {key: value for name, below in values.items() for key, value in dotted(below, f"{prefix}{name}.").items()}


_MAY_CHANGE = {"model.channels_last", "model.compile"} | {
    f"data.{name}" for name in ("source", "root", "cache_dir", "memory", "eval_batch_size")
}
"""What does not change the numbers of a run. Images may move; that they are the same is checked by themselves."""

_TRAINER_KEEPS: PlainDict = {
    "precision": "32-true",
    "gradient_clip_val": None,
    "accumulate_grad_batches": 1,
    "limit_train_batches": None,
    "limit_val_batches": None,
    "val_check_interval": None,
    "check_val_every_n_epoch": 1,
}
"""Settings of the trainer that must not change -> what they are where config.yaml leaves them out."""

_LENGTH: PlainDict = {"max_epochs": 10, "max_steps": -1}
"""Likewise, where the learning rate of every step depends on how many there will be."""

_OF_THE_NETWORK = ("model.network.", "model.backbone", "model.semantics", "data.image_size")


def refuse_changes(path: Path, experiment: ExperimentSpec, trainer: Mapping[str, object], resuming: bool) -> None:
    """Refuse settings with which a checkpoint cannot be used: a run is one experiment from beginning to end.

    Args:
        path: the run's config.yaml.
        experiment: of this command.
        trainer: all its settings of the trainer.
        resuming: whether training continues; otherwise the checkpoint is only evaluated.

    Raises:
        ExperimentError: names the settings, with both values.
    """
    trained = read_experiment(path)
    before, now = (
        dotted({key: settings[key] for key in ("model", "data", "seed_everything")})
        for settings in map(plain_settings, (trained, experiment))
    )
    saved = read_settings(path).get("trainer") or {}
    epochs = experiment.trainer.max_epochs
    history = RunFolder(path.parent).read_history() if resuming else []
    if history and 0 < epochs < history[-1]["epoch"]:
        raise ExperimentError(
            f"{path.parent} has trained {history[-1]['epoch']} epochs, trainer.max_epochs is {epochs}"
        )
    spans = trained.model.schedule.name != "constant" or trained.model.schedule.warmup or trained.model.tricks.lookahead
    for key, default in (_TRAINER_KEEPS | _LENGTH if spans else _TRAINER_KEEPS).items():
        before[f"trainer.{key}"] = saved.get(key, default)
        now[f"trainer.{key}"] = trainer.get(key, before[f"trainer.{key}"])
    for key in ("experiment", "name"):
        if getattr(experiment, key) is not None:
            before[key], now[key] = getattr(trained, key), getattr(experiment, key)
    changed = [key for key in before | now if before.get(key) != now.get(key) and key not in _MAY_CHANGE]
    if not resuming:
        changed = [key for key in changed if key.startswith(_OF_THE_NETWORK)]
    if changed:
        lines = "".join(f"\n  {key}: {before.get(key)} in the run, {now.get(key)} now" for key in changed)
        remedy = "leave them out, or start a new run, without --ckpt_path" if resuming else "leave them out"
        if any(key.removeprefix("trainer.") in _LENGTH for key in changed):
            lines += (
                "\n  (the learning rates of the finished steps would have been others in a training of this length)"
            )
        raise ExperimentError(f"{path.parent} was trained with other settings: {remedy}{lines}")
