"""YAML files and flags -> specs, without any framework: what every command line of the project has in common."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from lightning_vgg.common.addresses import is_address, without_secrets
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.compare.arms import ArmSpec
from lightning_vgg.experiment.specs import BackboneSpec, DataSpec, ModelSpec, refuse_null

OPTIONAL_GROUPS = {"model.backbone": BackboneSpec}
"""Keys that are null or have settings of their own; a parser knows each of these as one key."""
NAMED_GROUPS = {"compare.arms": ArmSpec}
"""Keys below which the user's own names stand, each with settings of its own; among the known keys such a name is *."""


@dataclass(frozen=True)
class TrainerSpec:
    """The settings of ``lightning.pytorch.Trainer`` that mean the same in every framework.

    Args:
        max_epochs: epochs to train.
        precision: 32-true, 64-true or bf16-mixed.
        gradient_clip_val: largest norm of all gradients together; null for any.
        default_root_dir: runs/ goes here; null for the working folder.
        logger: false to log nothing to W&B.
        enable_progress_bar: null for a bar on a terminal and a line an epoch elsewhere.
    """

    max_epochs: int = 10
    precision: str = "32-true"
    gradient_clip_val: float | None = None
    default_root_dir: str | None = None
    logger: bool | None = None
    enable_progress_bar: bool | None = None

    def __post_init__(self) -> None:
        refuse_null(self, "trainer")


class UnknownKey(ExperimentError):
    """A key or flag that this parser does not know; one of the whole program might."""


class ExplainsErrors:
    """For an ArgumentParser: errors name the key, the place and the nearest known key, without a page of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        keys = known_keys(self)
        args = flags_last(sys.argv[1:] if args is None else args)
        for path in config_files(args):
            check_yaml(path, keys)
        return super().parse_args(args, *more, **kwargs)  # type: ignore[misc]

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().instantiate(*args, **kwargs)  # type: ignore[misc]
        except ValueError as error:  # what a spec that may be null refuses comes wrapped, as its cause
            refused: BaseException | None = error
            while not isinstance(refused, ExperimentError):
                if refused is None:
                    raise
                refused = refused.__cause__
            raise refused from None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise explained(message, known_keys(self))


class ExplainingParser(ExplainsErrors, ArgumentParser):  # type: ignore[misc]
    """Raises ExperimentError where an ArgumentParser exits."""


def config_files(args: list[str]) -> list[Path]:
    """The files given by ``-c FILE``, ``--config FILE`` or ``--config=FILE``."""
    files = [Path(after) for flag, after in itertools.pairwise(args) if flag in ("-c", "--config")]
    return files + [Path(arg.removeprefix("--config=")) for arg in args if arg.startswith("--config=")]


def flags_last(args: list[str]) -> list[str]:
    """Files before flags: what stands on the command line wins, wherever it stands."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg in ("-c", "--config"):
            files += [arg, *itertools.islice(rest, 1)]
        else:
            (files if arg.startswith("--config=") else others).append(arg)
    first = next((number for number, arg in enumerate(others) if arg.startswith("-")), len(others))
    return [*others[:first], *files, *others[first:]]


def known_keys(parser: Any) -> list[str]:
    """Every key of the parser, dotted, those of its subcommands' parsers included."""
    keys = []
    for action in parser._actions:
        if action.dest == "subcommand":
            for subparser in action.choices.values():
                keys += known_keys(subparser)
        if not action.dest.endswith(".help"):  # a flag beside each setting that takes a class
            keys.append(action.dest)
        if action.dest in OPTIONAL_GROUPS:
            keys += [f"{action.dest}.{field.name}" for field in fields(OPTIONAL_GROUPS[action.dest])]
        if action.dest in NAMED_GROUPS:
            keys += [f"{action.dest}.*.{field.name}" for field in fields(NAMED_GROUPS[action.dest])]
    return list(dict.fromkeys(keys))


def check_yaml(path: Path, keys: list[str]) -> None:
    """Refuse a file that is missing, is no mapping, or has a key twice or one that is not among ``keys``.

    Raises:
        ExperimentError: with the file and the line.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is no YAML: {error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise ExperimentError(f"{path} holds no settings: write keys such as 'model:' and 'data:'")
    _check_mapping(path, root, "", "", keys)


def _check_mapping(path: Path, node: yaml.MappingNode, prefix: str, pattern: str, keys: list[str]) -> None:
    """``pattern`` is the prefix as the known keys have it, with * for the user's own names."""
    seen = set()
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        place = f"{path}, line {key_node.start_mark.line + 1}"
        if key in seen:
            raise ExperimentError(f"{place}: the key {key!r} stands there twice")
        seen.add(key)
        named = any(known.startswith(f"{pattern}*.") for known in keys)
        known_key = f"{pattern}{'*' if named else key_node.value}"
        has_children = any(known.startswith(f"{known_key}.") for known in keys)
        if not has_children and known_key not in keys:
            raise UnknownKey(f"{place}: unknown key {key!r}{nearest_key(key, keys)}")
        if isinstance(value_node, yaml.MappingNode):
            if has_children:
                _check_mapping(path, value_node, f"{key}.", f"{known_key}.", keys)
        elif has_children and not (key in OPTIONAL_GROUPS and value_node.tag.endswith(":null")):
            raise ExperimentError(f"{place}: {key!r} has settings of its own: write them below it, indented")


def explained(message: str, keys: list[str]) -> ExperimentError:
    """Of a message of jsonargparse: with the nearest known key to an unknown flag, and without what helps nobody."""
    optional = re.match(
        r"Parser key \"([\w.]+)\":\n.*Errors:\n    - (.*)\n    - Expected a .*NoneType", message, re.DOTALL
    )
    if optional is not None:
        return ExperimentError(f"{optional[1]}: {optional[2]}")
    unknown = re.search(
        r"(?:[Uu]nrecognized arguments: --|ambiguous option: --|Option ')([\w.]+)"
        r"|Group '(.+)' does not accept option '([\w.]+)",
        message,
    )
    if unknown is None:
        return ExperimentError(message)
    key = unknown[1] or f"{unknown[2]}.{unknown[3]}"
    return UnknownKey(f"unknown flag --{key}{nearest_key(key, keys)}")


def nearest_key(key: str, keys: list[str]) -> str:
    """``; did you mean 'model.network.filters'?``, or nothing where no key is near."""
    guess = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not guess:  # the last word may be right and its place wrong
        leaves = {known.rpartition(".")[2]: known for known in reversed(keys)}
        guess = [leaves[name] for name in difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.8)]
    return f"; did you mean {guess[0]!r}?" if guess else ""


def add_experiment_arguments(parser: ArgumentParser) -> None:
    """The keys beside ``trainer`` that every framework reads."""
    parser.add_argument("--experiment", type=str, default="vgg", help="Runs lie at runs/<experiment>/<name>.")
    parser.add_argument("--name", type=str | None, default=None, help="Of the run; null for the time and the seed.")
    parser.add_class_arguments(ModelSpec, "model")
    parser.add_class_arguments(DataSpec, "data")


def framework_free_parser(prog: str, description: str) -> ExplainingParser:
    """A parser of experiments that loads no framework: for the Keras reference, for checks, and for ``--help``."""
    parser = ExplainingParser(
        prog=prog, description=description, usage="%(prog)s -c EXPERIMENT.yaml [-c OVERLAY.yaml] [--KEY VALUE ...]"
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="A YAML file; later ones win.")
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, order and augmentation.")
    add_experiment_arguments(parser)
    parser.add_class_arguments(TrainerSpec, "trainer")
    return parser


def read_config(path: Path) -> Any:
    """The settings of one YAML file as specs: ``.model``, ``.data``, ``.seed_everything``, ``.experiment``.

    The trainer's settings are taken as they come: each framework reads its own.
    """
    parser = experiment_parser()
    check_yaml(path, known_keys(parser))
    return parser.instantiate(parser.parse_path(path))


def experiment_parser() -> ExplainingParser:
    """Knows the experiment, and of the trainer nothing but that there is one."""
    parser = ExplainingParser()
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--trainer", type=dict[str, Any])
    add_experiment_arguments(parser)
    return parser


def readable_config(config: dict[str, Any], trainer_defaults: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml keeps: the experiment in full, and the trainer's settings that differ from its defaults.

    Settings that every framework shares are kept in any case.
    """
    shared = {field.name for field in fields(TrainerSpec)}
    kept = {key: config[key] for key in ("experiment", "name", "seed_everything", "model", "data")}
    kept["trainer"] = {
        key: value for key, value in config["trainer"].items() if key in shared or value != trainer_defaults[key]
    }
    return _impersonal(kept)


def _impersonal(value: Any) -> Any:
    """Paths below the home folder begin with ~, addresses hold no password: a run folder can be passed on.

    An archive that was had by a password lies in the cache, where the run finds it again.
    """
    if isinstance(value, dict):
        return {key: _impersonal(inner) for key, inner in value.items()}
    home = f"{Path.home()}{os.sep}"
    if isinstance(value, str) and value.startswith(home):
        return f"~{os.sep}{value.removeprefix(home)}"
    return without_secrets(value) if isinstance(value, str) and is_address(value) else value


_MAY_CHANGE = {
    "model.channels_last",
    "model.compile",
    "data.source",
    "data.root",
    "data.cache_dir",
    "data.eval_batch_size",
}
"""Whatever does not change what a run computes. Images may move; that they are the same is checked by themselves."""

_TRAINER_KEEPS = ("precision", "gradient_clip_val", "accumulate_grad_batches")


def refuse_changes(path: Path, config: Any, resuming: bool) -> None:
    """Refuse settings with which a checkpoint cannot be used: a run is one experiment from beginning to end.

    Args:
        path: the run's config.yaml.
        config: the settings of this command, as specs.
        resuming: whether training goes on; otherwise the checkpoint is only evaluated.

    Raises:
        ExperimentError: names the settings, with both values.
    """
    trained = read_config(path)
    before, now = (
        _impersonal(dotted({"model": asdict(each.model), "data": asdict(each.data), "seed_everything": seed}))
        for each, seed in ((trained, trained.seed_everything), (config, config.seed_everything))
    )
    trainer = trained.trainer or {}
    for key in _TRAINER_KEEPS:
        if key in trainer:
            before[f"trainer.{key}"], now[f"trainer.{key}"] = trainer[key], getattr(config.trainer, key, trainer[key])
    for key in ("experiment", "name"):
        if getattr(config, key) is not None:
            before[key], now[key] = getattr(trained, key), getattr(config, key)
    changed = [key for key in before | now if before.get(key) != now.get(key) and key not in _MAY_CHANGE]
    if not resuming:
        fixed = ("model.network.", "model.backbone", "model.semantics", "data.image_size")
        changed = [key for key in changed if key.startswith(fixed)]
    if changed:
        lines = "".join(f"\n  {key}: {before.get(key)} in the run, {now.get(key)} now" for key in changed)
        remedy = "leave them out, or start a new run, without --ckpt_path" if resuming else "leave them out"
        raise ExperimentError(f"{path.parent} was trained with other settings: {remedy}{lines}")


def dotted(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys; an empty mapping is a value."""
    if not isinstance(values, dict) or not values:
        return {prefix.removesuffix("."): values}
    return {key: value for name, below in values.items() for key, value in dotted(below, f"{prefix}{name}.").items()}
