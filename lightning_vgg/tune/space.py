"""The search space: what may be varied, between which values; checked whole before a trial starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.parsing import (
    OPTIONAL_GROUPS,
    framework_free_parser,
    known_keys,
    nearest_key,
    with_values,
)
from lightning_vgg.experiment.specs import ExperimentSpec

if TYPE_CHECKING:
    import optuna

FIXED = {
    "experiment",
    "name",
    "config",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "data.source",
    "data.root",
    "data.cache_dir",
    "data.memory",
    "data.validation_fraction",
    "data.split_seed",
}
"""Keys that say where a run lies or by which images it is judged: trials that differ in them could not be compared."""

_SHAPING = ("model.network.conv_block", "model.network.filters", "model.network.dense_block", "model.network.units")
"""Keys that decide, with data.image_size, whether a network can be built."""


@dataclass(frozen=True)
class Choice:
    """One of ``values``. Optuna sees their text, since a value may be a recipe or a whole list of widths."""

    values: list[Any]

    @property
    def labels(self) -> list[str]:
        return [as_text(value) for value in self.values]

    @property
    def examples(self) -> list[Any]:
        return self.values

    def suggest(self, trial: optuna.Trial, key: str) -> str:
        return trial.suggest_categorical(key, self.labels)

    def decode(self, label: str) -> object:
        return self.values[self.labels.index(label)]


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included; ``log``: uniform in its logarithm."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def examples(self) -> list[Any]:
        return [self.low, self.high]

    def suggest(self, trial: optuna.Trial, key: str) -> float:
        if isinstance(self.low, int):
            return trial.suggest_int(key, self.low, int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def decode(self, number: float) -> float:
        return number


Space = dict[str, Choice | Range]


def as_text(value: object) -> str:
    """A value as YAML on one line; a string as it is."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def read_space(space: PlainDict, experiment: ExperimentSpec, check: Callable[[ExperimentSpec], None]) -> Space:
    """The parameters of ``tune.space``, every value of which the experiment can take.

    Args:
        space: key -> a list of choices, or a mapping with low, high and perhaps log or step.
        experiment: whose settings are varied.
        check: raises ExperimentError for an experiment that the framework would not train.

    Raises:
        ExperimentError: names the key.
    """
    if not space:
        raise ExperimentError(
            "tune.space is empty: write below it, for example, 'model.network.dropout: {low: 0.0, high: 0.5}'"
        )
    keys = [key for key in known_keys(framework_free_parser()) if key not in FIXED]
    parameters: Space = {}
    for key, values in space.items():
        if key in FIXED:
            raise ExperimentError(
                f"tune.space: {key} cannot be varied: it decides where a run is stored or on which images it is judged"
            )
        if key not in keys:
            raise ExperimentError(f"tune.space: unknown key {key!r}{nearest_key(key, keys)}")
        group = key.rpartition(".")[0]
        if group in OPTIONAL_GROUPS and _value_of(experiment, group) is None:
            raise ExperimentError(f"{group} is null in the experiment; give it settings before one of them varies")
        parameters[key] = _read_parameter(key, values, isinstance(_value_of(experiment, key), float))
        for value in parameters[key].examples:
            try:
                check(with_values(experiment, {key: value}))
            except ExperimentError as error:
                raise ExperimentError(f"tune.space, {key}, the value {as_text(value)}: {error}") from None
    _refuse_impossible_networks(parameters, experiment)
    return parameters


def _read_parameter(key: str, values: object, real: bool) -> Choice | Range:
    if isinstance(values, list):
        choice = Choice(values)
        if len(set(choice.labels)) != len(values) or len(values) < 2:
            raise ExperimentError(f"tune.space: {key} needs at least two different choices, not {as_text(values)}")
        return choice
    if isinstance(values, dict):
        return _read_range(key, values, real)
    raise ExperimentError(
        f"tune.space: {key} is {as_text(values)}; write a list of choices, or a range: {{low: 1, high: 2}}"
    )


def _read_range(key: str, values: PlainDict, real: bool) -> Range:
    known = ("low", "high", "step", "log")
    for name in values:
        if name not in known:
            raise ExperimentError(
                f"tune.space: {key} has the unknown setting {name!r}; a range takes {', '.join(known)}"
            )
    numbers = [values[name] for name in known[:3] if name in values]
    if not {"low", "high"} <= set(values) or any(type(number) not in (int, float) for number in numbers):
        raise ExperimentError(f"tune.space: {key} needs numbers as low and high, not {as_text(values)}")
    if real or any(isinstance(number, float) for number in numbers):
        values = {name: float(value) if name != "log" else value for name, value in values.items()}
    found = Range(**values)
    if found.low >= found.high or (found.step or 1) <= 0:
        raise ExperimentError(f"tune.space: {key} needs low below high and step above 0, not {as_text(values)}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ExperimentError(f"tune.space: {key} with log needs low above 0, and no step; not {as_text(values)}")
    return found


def _refuse_impossible_networks(space: Space, experiment: ExperimentSpec) -> None:
    """Plan every combination of the choices that shape the network."""
    if experiment.model.backbone is not None or "model.backbone" in space:
        return  # its weights decide, and reading them takes a framework
    shaping = {key: space[key].examples for key in (*_SHAPING, "data.image_size") if key in space}
    for values in itertools.product(*shaping.values()):
        chosen = dict(zip(shaping, values, strict=True))
        size = chosen.get("data.image_size", experiment.image_size)
        blocks = {key.rpartition(".")[2]: value for key, value in chosen.items() if key in _SHAPING}
        try:
            plan_network(replace(experiment.model.network, **blocks), size, 2, experiment.data.channels)
        except ExperimentError as error:
            combination = "".join(f"\n  {key}: {as_text(value)}" for key, value in chosen.items())
            raise ExperimentError(f"tune.space: this combination cannot be built: {error}{combination}") from None


def decode(space: Space, params: PlainDict) -> PlainDict:
    """A trial's parameters as Optuna keeps them -> the values of the experiment's keys."""
    return {key: space[key].decode(value) for key, value in params.items()}


def _value_of(experiment: ExperimentSpec, key: str) -> object:
    """The value of a dotted key; None below what is null."""
    value: object = experiment
    for name in key.split("."):
        value = getattr(value, name, None)
    return value
