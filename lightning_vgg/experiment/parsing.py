"""YAML files and flags -> ExperimentSpec, without any framework: every command line of the project reads by this."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import nearest_path
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.patience import EarlyStoppingSpec, PlateauSpec
from lightning_vgg.experiment.shipped import find_config, nearest_config
from lightning_vgg.experiment.specs import (
    MOVED,
    BackboneSpec,
    DataSpec,
    ExperimentSpec,
    LoggerName,
    ModelSpec,
    TrainerSpec,
)

OPTIONAL_GROUPS: dict[str, type] = {
    "model.backbone": BackboneSpec,
    "model.early_stopping": EarlyStoppingSpec,
    "model.reduce_on_plateau": PlateauSpec,
}
"""Keys that are null or have settings of their own; a parser knows each of these as one key."""


class UnknownKey(ExperimentError):
    """A key or flag that this parser does not know; another parser of the program might.

    Attributes:
        key: dotted.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class ExplainsErrors:
    """For an ArgumentParser: errors name the key, the place and the nearest known key, without a page of usage.

    Attributes:
        named_groups: keys whose children have names of the user's own, each with the settings of a dataclass.
    """

    named_groups: Mapping[str, type] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Namespace:
        args = sys.argv[1:] if args is None else args
        if "-h" in args or "--help" in args:  # whatever else is wrong
            self.print_help()  # type: ignore[attr-defined]
            sys.exit()
        args = checked_arguments(self, args)
        return super().parse_args(args, *more, **kwargs)  # type: ignore[misc]

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        try:
            return super().instantiate(*args, **kwargs)  # type: ignore[misc]
        except ValueError as error:  # what a spec that may be null refuses comes wrapped, as its cause
            raise refusal_in(error) or error from None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise refusal_in(ex) or ExperimentError(message)


class ExplainingParser(ExplainsErrors, ArgumentParser):  # type: ignore[misc]
    """Raises ExperimentError where an ArgumentParser exits."""

    def read(self, args: Sequence[str]) -> Namespace:
        """Parse a command line; ``experiment_spec`` of the answer is the experiment."""
        return self.instantiate(self.parse_args(args))


def refusal_in(error: BaseException | None) -> ExperimentError | None:
    """The ExperimentError among the causes of an error."""
    while error is not None and not isinstance(error, ExperimentError):
        error = error.__cause__
    return error


# What is known


def known_keys(parser: ArgumentParser) -> list[str]:
    """Every key of the parser, dotted, those of its subcommands included; * stands for the user's own names."""
    keys = []
    for action in parser._actions:
        if action.dest == "subcommand":
            for subparser in action.choices.values():
                keys += known_keys(subparser)
        if not action.dest.endswith(".help"):  # a flag beside each setting that takes a class
            keys.append(action.dest)
        for groups, inner in ((OPTIONAL_GROUPS, ""), (parser.named_groups, "*.")):
            if action.dest in groups:
                keys += [f"{action.dest}.{inner}{field.name}" for field in fields(groups[action.dest])]
    return list(dict.fromkeys(keys))


def nearest_key(key: str, keys: Sequence[str]) -> str:
    """``; did you mean 'model.network.filters'?``, or nothing where no key is near."""
    guess = nearest_path(key, keys, ".")
    return f"; did you mean {guess!r}?" if guess else ""


# Command lines


def config_files(args: Sequence[str]) -> list[Path]:
    """The files given by ``-c FILE``, ``--config FILE`` or ``--config=FILE``, shipped ones where they are."""
    files = [after for flag, after in itertools.pairwise(args) if flag in ("-c", "--config")]
    files += [arg.removeprefix("--config=") for arg in args if arg.startswith("--config=")]
    return [find_config(file) for file in files]


def flags_last(args: Sequence[str]) -> list[str]:
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


def checked_arguments(parser: ArgumentParser, args: Sequence[str]) -> list[str]:
    """The arguments with files first, those of older run folders in today's words.

    Raises:
        ExperimentError: a file cannot be read, or has a key that is not known; a flag is not known.
    """
    keys = known_keys(parser)
    checked: list[str] = []
    args = flags_last(args)
    for number, arg in enumerate(args):
        before = args[number - 1] if number else ""
        flag, equals, value = arg.partition("=")
        if before in ("-c", "--config"):
            checked.append(_checked_file(arg, keys))
        elif flag == "--config" and equals:
            checked.append(f"{flag}={_checked_file(value, keys)}")
        else:
            if flag.startswith("--") and flag not in _flags(parser):
                _check_flag(flag.removeprefix("--").removesuffix("+"), keys)
            checked.append(arg)
    return checked


def _flags(parser: ArgumentParser) -> set[str]:
    """As they are written: some have a dash where their key has an underscore."""
    found = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        if action.dest == "subcommand":
            found |= {flag for subparser in action.choices.values() for flag in _flags(subparser)}
    return found


def _check_flag(key: str, keys: Sequence[str]) -> None:
    if key in MOVED:
        raise ExperimentError(f"unknown flag --{key}; it is --{MOVED[key]} now")
    known_above = next((key[: len(key) - cut] for cut in range(len(key)) if key[: len(key) - cut] in keys), None)
    below_known = known_above is not None and key.startswith(f"{known_above}.")
    # A logger or callback of Lightning's has settings that its class alone knows: --trainer.logger.project.
    if key not in keys and not (below_known and not any(known.startswith(f"{known_above}.") for known in keys)):
        raise UnknownKey(f"unknown flag --{key}{nearest_key(key, keys)}", key)


def _checked_file(file: str, keys: Sequence[str]) -> str:
    """The path; or, of a run folder from before keys moved, the settings themselves."""
    if file.startswith("{"):  # what this function gave to the parser that holds this one as a subcommand
        return file
    path = find_config(file)
    if not path.exists() and (guess := nearest_config(file)):
        raise ExperimentError(f"{path}: No such file or directory; did you mean {guess!r}?")
    moved = check_yaml(path, keys)
    return yaml.safe_dump(read_settings(path), default_flow_style=True, width=10**6) if moved else str(path)


# YAML files


def check_yaml(path: Path, keys: Sequence[str]) -> bool:
    """Refuse a file that is missing, is no mapping, or has a key twice or one that is not among ``keys``.

    Returns:
        whether keys in it have moved since, which is allowed in a run folder alone.

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
    return _check_mapping(path, root, "", "", keys)


def _check_mapping(path: Path, node: yaml.MappingNode, prefix: str, pattern: str, keys: Sequence[str]) -> bool:
    """``pattern`` is the prefix as the known keys have it, with * for the user's own names."""
    seen = set()
    moved = False
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        place = f"{path}, line {key_node.start_mark.line + 1}"
        if key in seen:
            raise ExperimentError(f"{place}: the key {key!r} appears twice")
        seen.add(key)
        named = any(known.startswith(f"{pattern}*.") for known in keys)
        known_key = f"{pattern}{'*' if named else key_node.value}"
        has_children = any(known.startswith(f"{known_key}.") for known in keys)
        if key in MOVED:
            if not is_run_folder(path.parent):
                raise ExperimentError(f"{place}: unknown key {key!r}; it is {MOVED[key]!r} now")
            moved = True
        elif not has_children and known_key not in keys:
            raise UnknownKey(f"{place}: unknown key {key!r}{nearest_key(key, keys)}", key)
        elif isinstance(value_node, yaml.MappingNode):
            if has_children:
                moved |= _check_mapping(path, value_node, f"{key}.", f"{known_key}.", keys)
        elif has_children and not (key in OPTIONAL_GROUPS and value_node.tag.endswith(":null")):
            raise ExperimentError(f"{place}: {key!r} is a group of settings: write them below it, indented")
    return moved


def is_run_folder(folder: Path) -> bool:
    """Whether a config.yaml in it was written by a training."""
    return (folder / "checkpoints").is_dir()


def read_settings(path: Path) -> PlainDict:
    """The settings of a YAML file as plain values, in today's words."""
    settings: PlainDict = yaml.safe_load(path.read_text(encoding="utf-8"))
    for old, new in MOVED.items():
        *groups, name = old.split(".")
        node = settings
        for group in groups:
            node = node.get(group) or {}
        if name in node:
            settings["model"].setdefault("tricks", {})[new.rpartition(".")[2]] = node.pop(name)
    return settings


# Parsers


def add_experiment_arguments(parser: ArgumentParser) -> None:
    """The keys beside ``trainer`` that every framework reads."""
    parser.add_argument("--experiment", type=str, default="vgg", help="Runs go to runs/<experiment>/<name>.")
    parser.add_argument(
        "--name", type=str | None, default=None, help="Name of the run; null for the time and the seed."
    )
    parser.add_argument(
        "--report",
        type=bool,
        default=False,
        help="End fit and test with a report of the run in its folder: the worst mistakes as pictures, with Grad-CAM.",
    )
    parser.add_class_arguments(ModelSpec, "model")
    parser.add_class_arguments(DataSpec, "data")


def framework_free_parser(
    prog: str = "", description: str = "", named_groups: Mapping[str, type] | None = None
) -> ExplainingParser:
    """A parser of experiments that loads no framework: for the Keras reference, for checks, and for ``--help``."""
    parser = ExplainingParser(
        prog=prog, description=description, usage="%(prog)s -c EXPERIMENT.yaml [-c OVERLAY.yaml] [--KEY VALUE ...]"
    )
    parser.named_groups = named_groups or {}
    parser.add_argument(
        "-c", "--config", action=ActionConfigFile, help="A YAML file; later ones override earlier ones."
    )
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, order and augmentation.")
    add_experiment_arguments(parser)
    parser.add_class_arguments(TrainerSpec, "trainer")
    return parser


def experiment_parser() -> ExplainingParser:
    """Knows the experiment, and of the trainer nothing but that there is one."""
    parser = ExplainingParser()
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--trainer", type=PlainDict)
    add_experiment_arguments(parser)
    return parser


# Experiments


def experiment_spec(config: Namespace) -> ExperimentSpec:
    """The experiment among the settings that a parser has read, that of LightningCLI included."""
    trainer = config.trainer if isinstance(config.trainer, TrainerSpec) else _shared_trainer(config.trainer or {})
    return ExperimentSpec(
        config.experiment, config.name, config.seed_everything, config.model, config.data, trainer, config.report
    )


def _shared_trainer(settings: PlainDict | Namespace) -> TrainerSpec:
    """What every framework reads of the settings of Lightning's trainer."""
    shared = {field.name: settings[field.name] for field in fields(TrainerSpec) if field.name in settings}
    if "precision" in shared:
        shared["precision"] = str(shared["precision"])
    logger = shared.get("logger")
    names = logger if isinstance(logger, list) else [logger]
    if not isinstance(logger, bool) and not all(name in get_args(LoggerName) for name in names):
        shared["logger"] = None  # a logger of the user's own
    if shared.get("max_epochs", 0) is None:  # as long as max_steps or max_time say
        shared["max_epochs"] = -1
    return TrainerSpec(**shared)


def parse_experiment(args: Sequence[str]) -> ExperimentSpec:
    """The experiment of a command line that holds nothing else.

    Raises:
        ExperimentError: a setting is unknown or invalid.
    """
    return experiment_spec(framework_free_parser().read(args))


def read_experiment(path: Path) -> ExperimentSpec:
    """The experiment of a YAML file; what Lightning alone reads of the trainer is left out.

    Raises:
        ExperimentError: the file cannot be read, or has a setting that is unknown or invalid.
    """
    parser = experiment_parser()
    check_yaml(path, known_keys(parser))
    settings = read_settings(path)
    trainer = settings.pop("trainer", None)
    config = parser.instantiate(parser.parse_object(settings))
    config.trainer = trainer
    return experiment_spec(config)


def with_values(experiment: ExperimentSpec, values: Mapping[str, object], place: str = "") -> ExperimentSpec:
    """The experiment with other values.

    Args:
        experiment: stays as it is.
        values: dotted key -> plain value.
        place: where these keys stand, for messages.

    Raises:
        ExperimentError: a key is unknown, or is a group of settings; a value is invalid.
    """
    parser = framework_free_parser()
    keys = known_keys(parser)
    settings = asdict(experiment)
    try:
        for key, value in values.items():
            _check_known(key, keys)
            *groups, last = key.split(".")
            node = settings
            for group in groups:
                node[group] = node[group] or {}  # one of the OPTIONAL_GROUPS may be null
                node = node[group]
            node[last] = value
        return experiment_spec(parser.instantiate(parser.parse_object(settings)))
    except ExperimentError as error:
        raise ExperimentError(f"{place}: {error}" if place else str(error)) from None


def _check_known(key: str, keys: Sequence[str]) -> None:
    if key in MOVED:
        raise ExperimentError(f"unknown key {key!r}; it is {MOVED[key]!r} now")
    if key not in keys:
        raise UnknownKey(f"unknown key {key!r}{nearest_key(key, keys)}", key)
    if key not in OPTIONAL_GROUPS and any(known.startswith(f"{key}.") for known in keys):
        raise ExperimentError(f"{key} is a group of settings; name each of them, as {key}.KEY")
