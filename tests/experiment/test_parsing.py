"""YAML and flags: what is wrong is said with its place and the nearest key, and no framework is loaded to say it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.parsing import (
    ExplainingParser,
    check_yaml,
    config_files,
    flags_last,
    framework_free_parser,
    known_keys,
    nearest_key,
    parse_experiment,
    read_experiment,
    with_values,
)
from lightning_vgg.experiment.patience import EarlyStoppingSpec, PlateauSpec
from lightning_vgg.experiment.settings import config_text, plain_settings, refuse_changes
from lightning_vgg.experiment.specs import (
    MOVED,
    AugmentationSpec,
    BackboneSpec,
    DataSpec,
    ExperimentSpec,
    ModelSpec,
    NetworkSpec,
    OptimizerSpec,
    ScheduleSpec,
    TrainerSpec,
    TricksSpec,
)

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def parser() -> ExplainingParser:
    return framework_free_parser("prog", "what it does")


def parse(*args: str | Path) -> Any:
    this = parser()
    return this.instantiate(this.parse_args([str(arg) for arg in args]))


# --- files at fault ---------------------------------------------------------------------------------------------------

# The file, the line at fault (None: the message names the file alone), what the message says.
BAD_FILES = [
    ("model:\n network:\n  unts: 1\n", 3, "unknown key 'model.network.unts'; did you mean 'model.network.units'?"),
    ("name: a\n\n# why\nsede_everything: 1\n", 4, "unknown key 'sede_everything'; did you mean 'seed_everything'?"),
    ("learning_rate: 1\n", 1, "unknown key 'learning_rate'; did you mean 'model.optimizer.learning_rate'?"),
    ("data:\n  network:\n    filters: [1]\n", 2, "unknown key 'data.network'; did you mean 'model.network'?"),
    ("data: {batchsize: 3}\n", 1, "unknown key 'data.batchsize'; did you mean 'data.batch_size'?"),
    ("xyzzy: 1\n", 1, "unknown key 'xyzzy'"),
    ("data:\n  root: a\n  source: folder\n  root: b\n", 4, "the key 'data.root' appears twice"),
    ("model: {}\ndata: {}\nmodel: {}\n", 3, "the key 'model' appears twice"),
    ("experiment: a\nmodel: 3\n", 2, "'model' is a group of settings: write them below it, indented"),
    ("model:\n  network: 3\n", 2, "'model.network' is a group of settings"),
    ("data:\n", 1, "'data' is a group of settings"),
    ("data:\n- root: a\n", 1, "'data' is a group of settings"),
    ("model:\n\tnetwork: 1\n", None, "is no YAML: .*line 2"),
    ("model: [1\n", None, "is no YAML: .*line"),
    ("a: 1\n---\nb: 2\n", None, "is no YAML: .*line"),
    ("", None, "holds no settings: write keys such as 'model:' and 'data:'"),
    ("# only a remark\n", None, "holds no settings"),
    ("- model\n", None, "holds no settings"),
    ("model\n", None, "holds no settings"),
]


@pytest.mark.parametrize(("text", "line", "says"), BAD_FILES)
def test_a_file_at_fault(write: Write, text: str, line: int | None, says: str) -> None:
    path = write(text)
    for read in (
        lambda: check_yaml(path, known_keys(parser())),
        lambda: parse("-c", path),
        lambda: parse("--config", path),
        lambda: parse(f"--config={path}"),
        lambda: read_experiment(path),
    ):
        with pytest.raises(ExperimentError) as caught:
            read()
        message = " ".join(str(caught.value).split())
        if line is not None:
            assert message.startswith(f"{path}, line {line}: {says}")
            assert ("did you mean" in message) == ("did you mean" in says)
        else:
            first, _, second = says.partition(".*")
            assert message.startswith(f"{path} {first}")
            assert second in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path, says in (
        (tmp_path / "absent.yaml", "absent.yaml: No such file or directory"),
        (tmp_path, ": Is a directory"),
        (tmp_path / "binary.yaml", "binary.yaml is no YAML: 'utf-8' codec"),
    ):
        for read in (parse, lambda flag, path: read_experiment(path)):
            with pytest.raises(ExperimentError) as caught:
                read("-c", path)
            assert str(caught.value).startswith(str(path))
            assert says in str(caught.value)


def test_the_second_file_is_checked_too(write: Write, tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text("data: {rot: a}\n")
    with pytest.raises(
        ExperimentError, match=r"overlay.yaml, line 1: unknown key 'data.rot'; did you mean 'data.root'\?"
    ):
        parse("-c", write("experiment: a\n"), "-c", tmp_path / "overlay.yaml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: {network: {filters: abc}}\n", "model.network.filters"),
        ("model: {network: {dropout: high}}\n", "model.network.dropout"),
        ("model: {optimizer: {name: sdg}}\n", "model.optimizer.name"),
        ("model: {semantics: tensorflow}\n", "model.semantics"),
        ("data: {image_size: 3.5}\n", "data.image_size"),
        ("data: {augmentation: {flip: maybe}}\n", "data.augmentation.flip"),
        ("experiment: [1]\n", "experiment"),
        ("seed_everything: zero\n", "seed_everything"),
    ],
)
def test_a_value_of_the_wrong_type(write: Write, text: str, key: str) -> None:
    path = write(text)
    for read in (parse, lambda flag, path: read_experiment(path)):
        with pytest.raises(ExperimentError, match=f'"{key}"') as caught:
            read("-c", path)
        assert repr(yaml.safe_load(text.split()[-1].strip("{}"))).strip("'") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {optimizer: {learning_rate: 0}}\n", "optimizer.learning_rate must be above 0"),
        ("model: {optimizer: {nesterov: true}}\n", "optimizer.nesterov needs optimizer.momentum above 0"),
        ("model: {network: {dropout: 1}}\n", r"network.dropout lies in \[0, 1\)"),
        ("model: {schedule: {warmup: 1}}\n", r"schedule.warmup is a share of the training in \[0, 1\)"),
        ("model: {schedule: {milestones: [0.5, 30]}}\n", r"schedule.milestones are shares of the training in \(0, 1\)"),
        ("model: {label_smoothing: 1}\n", r"model.label_smoothing lies in \[0, 1\)"),
        ("model: {schedule: {factor: 2}}\n", r"schedule.factor lies in \[0, 1\]"),
        ("model: {optimizer: {momentum: 1}}\n", r"optimizer.momentum lies in \[0, 1\)"),
        ("model: {optimizer: {beta2: -.1}}\n", r"optimizer.beta2 lies in \[0, 1\)"),
        ("model: {optimizer: {weight_decay: -1}}\n", "optimizer.weight_decay must be at least 0"),
        ("model: {optimizer: {learning_rate: .nan}}\n", "optimizer.learning_rate must be above 0"),
        ("model: {optimizer: {momentum: null}}\n", "optimizer.momentum must not be null"),
        ("data: {batch_size: 0}\n", "data.batch_size and data.eval_batch_size must be at least 1"),
        ("data: {validation_fraction: 1}\n", r"data.validation_fraction lies in \[0, 1\)"),
        ("data: {augmentation: {shift: -1}}\n", "augmentation.shift and augmentation.cutout are counts"),
        ("data: {augmentation: {rotation: 15}}\n", r"a full turn in \[0, 0.5\], not 15.0; for degrees, divide by 360"),
        ("data: {augmentation: {zoom: 1}}\n", r"augmentation.zoom lies in \[0, 1\), not 1.0"),
        ("data: {augmentation: {brightness: -0.1}}\n", r"augmentation.brightness lies in \[0, 1\], not -0.1"),
        ("data: {augmentation: {contrast: .nan}}\n", r"augmentation.contrast lies in \[0, 1\], not nan"),
        ("data: {augmentation: {erasing: 2}}\n", r"augmentation.erasing lies in \[0, 1\], not 2.0"),
        ("data: {augmentation: {resized_crop: -1}}\n", r"augmentation.resized_crop lies in \[0, 1\], not -1.0"),
        ("data: {augmentation: {mixup: -1}}\n", r"augmentation.mixup is the alpha of Beta.*, at least 0, not -1.0"),
        ("data: {augmentation: {cutmix: .inf}}\n", "augmentation.cutmix is the alpha of Beta.*, not inf"),
        ("data: {image_size: 8, augmentation: {shift: 8}}\n", r"shift \(8\) must be below data.image_size \(8\)"),
    ],
)
def test_a_value_out_of_bounds(write: Write, text: str, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        read_experiment(write(text))


# --- flags at fault ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.network.filtrs=[1]"], "unknown flag --model.network.filtrs; did you mean 'model.network.filters'?"),
        (["--data.batch_sizes=3"], "unknown flag --data.batch_sizes; did you mean 'data.batch_size'?"),
        (["--filters", "[1]"], "unknown flag --filters; did you mean 'model.network.filters'?"),
        (["--model.network.drop", ".3"], "unknown flag --model.network.drop; did you mean 'model.network.dropout'?"),
        (["--xyzzy", "1"], "unknown flag --xyzzy"),
        (["--model.network.filters"], "--model.network.filters"),
        (["--trainer.max_epochs", "ten"], '"trainer.max_epochs"'),
        (["stray"], "stray"),
        (["-c"], "-c/--config: expected one argument"),
    ],
)
def test_a_flag_at_fault(args: list[str], says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        parse(*args)
    assert says in str(caught.value)
    if says.startswith("unknown"):
        assert str(caught.value) == says
    assert "usage" not in str(caught.value)


def test_nearest_key() -> None:
    keys = ["model.optimizer.momentum", "model.network.filters", "seed_everything"]
    assert nearest_key("model.optimizer.momentun", keys) == "; did you mean 'model.optimizer.momentum'?"
    assert nearest_key("data.filters", keys) == "; did you mean 'model.network.filters'?"
    assert nearest_key("filtrs", keys) == "; did you mean 'model.network.filters'?"
    assert nearest_key("xyzzy", keys) == ""


def test_config_files() -> None:
    args = ["fit", "-c", "a.yaml", "--name", "x", "--config", "b.yaml", "--config=c.yaml", "-c"]
    assert config_files(args) == [Path("a.yaml"), Path("b.yaml"), Path("c.yaml")]


# --- round trips ------------------------------------------------------------------------------------------------------

# No field has its default here; the test below holds this list to that.
EXPERIMENT = ModelSpec(
    network=NetworkSpec(["conv", "conv - maxpool"], [3, 4], ["dense"], [5], 0.125, "dense(linear, no bias)"),
    backbone=BackboneSpec("none", "cifar", "block3_pool", "max", 48, "block2_pool", {2: "none"}, 0.5, 0.25, "vgg19"),
    optimizer=OptimizerSpec("sgd", 0.05, 0.875, True, 0.8, 0.95, 1e-5, 3e-4, False),
    schedule=ScheduleSpec("one_cycle", 0.25, [0.3], 1e-05),
    semantics="torch",
    semantics_except=["clip_epsilon"],
    label_smoothing=0.1,
    early_stopping=EarlyStoppingSpec("val_acc", 7, 0.5),
    best_by="val_loss",
    tricks=TricksSpec(True, 1, True, 0.5, 64.0, 0.25, True, "mirror"),
    init_from="weights.safetensors",
    channels_last=False,
    compile=True,
    other_kernels=True,
)
DATA = DataSpec(
    "folder",
    "images",
    48,
    1000,
    0.25,
    3,
    64,
    250,
    AugmentationSpec(True, 4, 8, True, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0, 0.7),
    "cache",
    "skip",
    [1.0],
    [4.0],
    True,
    0.25,
    "crop",
    False,
    2.5,
    {"cat": 2.0, "3": 0.5},
)
TRAINER = TrainerSpec(3, "64-true", 1.0, 2, "elsewhere", False, True)


NULL_BY_DEFAULT: dict[str, Callable[[], object]] = {
    "backbone": BackboneSpec,
    "early_stopping": EarlyStoppingSpec,
    "reduce_on_plateau": PlateauSpec,
}


def flat(spec: object, prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(spec):  # type: ignore[arg-type]
        value, key = getattr(spec, field.name), f"{prefix}.{field.name}"
        if value is None and field.name in NULL_BY_DEFAULT:
            value = NULL_BY_DEFAULT[field.name]()
        values |= flat(value, key) if dataclasses.is_dataclass(value) else {key: value}
    return values


CHANGED = {**flat(EXPERIMENT, "model"), **flat(DATA, "data"), **flat(TRAINER, "trainer")}
# They go with no schedule but the usual one, and without lookahead.
CHANGED["model.optimizer.ema"] = 0.9
CHANGED |= flat(PlateauSpec("val_acc", 0.5, 4, 0.25, 2, 1e-3), "model.reduce_on_plateau")


def test_the_round_trip_changes_every_field() -> None:
    defaults = {**flat(ModelSpec(), "model"), **flat(DataSpec(), "data"), **flat(TrainerSpec(), "trainer")}
    assert CHANGED.keys() == defaults.keys()
    assert [key for key, value in CHANGED.items() if value == defaults[key]] == []


def test_defaults_are_those_of_the_specs(write: Write) -> None:
    for config in (parse(), parse("-c", write("experiment: other\n"))):
        assert (config.model, config.data, config.trainer) == (ModelSpec(), DataSpec(), TrainerSpec())
        assert config.seed_everything == 0
    assert read_experiment(write("{}\n")).model == ModelSpec()


def as_yaml() -> str:
    settings = {"experiment": "e", "name": "n", "seed_everything": 7}
    specs = {"model": EXPERIMENT, "data": DATA, "trainer": TRAINER}
    return yaml.safe_dump({**settings, **{key: dataclasses.asdict(spec) for key, spec in specs.items()}})


def test_every_field_by_yaml(write: Write) -> None:
    config = parse("-c", write(as_yaml()))
    assert (config.model, config.data, config.trainer) == (EXPERIMENT, DATA, TRAINER)
    assert (config.experiment, config.name, config.seed_everything) == ("e", "n", 7)
    config = read_experiment(write(as_yaml()))
    assert (config.model, config.data) == (EXPERIMENT, DATA)
    assert (config.experiment, config.name, config.seed_everything) == ("e", "n", 7)


NEEDED_BY = {
    "model.optimizer.nesterov": {"model.optimizer.momentum": "0.875"},
    "model.tricks.muon_rate": {"model.optimizer.name": "sgd"},
    "data.mean": {"data.std": "[4.0]", "data.grayscale": "true"},
    "data.std": {"data.mean": "[1.0]", "data.grayscale": "true"},
}
"""Flag -> what it cannot do without."""


@pytest.mark.parametrize("key", CHANGED)
def test_every_field_by_flag(key: str) -> None:
    """One flag at a time: it sets its field and no other."""
    settings = dict(NEEDED_BY.get(key, {}))
    value = CHANGED[key]
    settings[key] = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    config = parse(*(f"--{name}={text}" for name, text in settings.items()))
    found = {**flat(config.model, "model"), **flat(config.data, "data"), **flat(config.trainer, "trainer")}
    defaults = {**flat(ModelSpec(), "model"), **flat(DataSpec(), "data"), **flat(TrainerSpec(), "trainer")}
    expected = defaults | {name: CHANGED[name] for name in settings}
    assert found == expected
    assert type(found[key]) is type(value)


def test_later_files_and_flags_win(write: Write, tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text("model: {network: {filters: [9]}}\n")
    first = write("model: {network: {filters: [1], units: [2]}, optimizer: {learning_rate: 1e-2}}\n")
    config = parse("-c", first, "-c", tmp_path / "overlay.yaml", "--model.optimizer.learning_rate", "0.5")
    assert config.model.network.filters == [9]
    assert config.model.network.units == [2]
    assert config.model.optimizer.learning_rate == 0.5


def test_flags_win_wherever_they_stand(write: Write) -> None:
    path = write("model: {optimizer: {learning_rate: 1e-2}}\ndata: {batch_size: 7}\n")
    for args in (
        ("--model.optimizer.learning_rate", "0.5", "-c", path),
        ("--model.optimizer.learning_rate=0.5", "--config", path),
        ("--model.optimizer.learning_rate=0.5", f"--config={path}"),
    ):
        config = parse(*args)
        assert (config.model.optimizer.learning_rate, config.data.batch_size) == (0.5, 7)
    assert flags_last(["fit", "--a", "1", "-c", "x", "--b", "-c", "y"]) == [
        "fit",
        "-c",
        "x",
        "-c",
        "y",
        "--a",
        "1",
        "--b",
    ]


CHANGES = [
    (["--model.optimizer.learning_rate", "0.5"], "model.optimizer.learning_rate: 0.001 in the run, 0.5 now", False),
    (["--model.network.filters", "[8]"], "model.network.filters: [32, 64, 128] in the run, [8] now", True),
    (["--model.backbone.weights", "none"], "model.backbone.weights: None in the run, none now", True),
    (["--data.image_size", "16"], "data.image_size: 32 in the run, 16 now", True),
    (["--data.batch_size", "16"], "data.batch_size: 128 in the run, 16 now", False),
    (["--data.augmentation.flip", "true"], "data.augmentation.flip: False in the run, True now", False),
    (["--seed_everything", "3"], "seed_everything: 0 in the run, 3 now", False),
    (["--name", "other"], "name: None in the run, other now", False),
    (["--trainer.precision", "64-true"], "trainer.precision: 32-true in the run, 64-true now", False),
]


@pytest.mark.parametrize(("flags", "says", "always"), CHANGES)
def test_a_checkpoint_refuses_other_settings(flags: list[str], says: str, always: bool, write: Write) -> None:
    path = write(config_text(ExperimentSpec()))
    experiment = parse_experiment(flags)
    with pytest.raises(ExperimentError) as caught:
        refuse_changes(path, experiment, vars(experiment.trainer), resuming=True)
    assert says in str(caught.value)
    with pytest.raises(ExperimentError) if always else nullcontext():
        refuse_changes(path, experiment, vars(experiment.trainer), resuming=False)


def test_a_checkpoint_takes_settings_that_change_nothing_it_holds(write: Write) -> None:
    path = write(config_text(ExperimentSpec()))
    experiment = parse_experiment(["--trainer.max_epochs", "30", "--data.root", "x", "--data.cache_dir", "y"])
    refuse_changes(path, experiment, vars(experiment.trainer), resuming=True)


def test_a_rate_without_a_point_is_a_number(write: Write) -> None:
    """To YAML 1.1 1e-3 is text."""
    assert read_experiment(write("model: {optimizer: {learning_rate: 1e-3}}\n")).model.optimizer.learning_rate == 0.001


def test_read_experiment_leaves_what_lightning_alone_knows_to_lightning(write: Write) -> None:
    trainer = "{detect_anomaly: true, max_epochs: 3, precision: 32, logger: {class_path: x.Y}}"
    experiment = read_experiment(write(f"trainer: {trainer}\n"))
    assert experiment.trainer == TrainerSpec(max_epochs=3, precision="32")


def test_plain_settings() -> None:
    kept = plain_settings(ExperimentSpec(data=DataSpec(root=str(Path.home() / "images"))), {"devices": 2})
    assert list(kept) == ["experiment", "name", "seed_everything", "model", "data", "trainer", "report"]
    assert kept["trainer"] == {**dataclasses.asdict(TrainerSpec()), "devices": 2}
    assert kept["data"]["root"] == "~/images"


def test_what_is_kept_trains_the_same_again(write: Write) -> None:
    experiment = ExperimentSpec("e", "n", 7, EXPERIMENT, DATA, TRAINER, report=True)
    path = write(config_text(experiment))
    assert parse_experiment(["-c", str(path)]) == experiment
    assert read_experiment(path) == experiment


def test_values_are_changed_by_their_dotted_names() -> None:
    changed = with_values(ExperimentSpec(), {"model.network.filters": [9], "model.backbone.layer": "block2_pool"})
    assert changed.model.network.filters == [9]
    assert changed.model.backbone == BackboneSpec(layer="block2_pool")
    for key, says in (
        ("model.network.filtres", "arm: unknown key 'model.network.filtres'; did you mean 'model.network.filters'?"),
        ("model.network", "arm: model.network is a group of settings; name each of them, as model.network.KEY"),
        ("model.whitening", "arm: unknown key 'model.whitening'; it is 'model.tricks.whitening' now"),
    ):
        with pytest.raises(ExperimentError) as caught:
            with_values(ExperimentSpec(), {key: 1}, "arm")
        assert str(caught.value) == says


# --- keys that moved --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", MOVED)
def test_a_key_that_moved_is_an_error_that_names_the_new_one(old: str, write: Write) -> None:
    _, *groups, name = old.split(".")
    text = "model:\n" + "".join(f"{' ' * depth} {group}:\n" for depth, group in enumerate(groups))
    path = write(f"{text}{' ' * len(groups)} {name}: 1\n")
    place = f"{path}, line {2 + len(groups)}"
    for read in (lambda: parse("-c", path), lambda: read_experiment(path)):
        with pytest.raises(ExperimentError) as caught:
            read()
        assert str(caught.value) == f"{place}: unknown key {old!r}; it is {MOVED[old]!r} now"
    with pytest.raises(ExperimentError) as caught:
        parse(f"--{old}=1")
    assert str(caught.value) == f"unknown flag --{old}; it is --{MOVED[old]} now"


def test_older_run_folders_are_read_all_the_same(write: Write) -> None:
    old = plain_settings(ExperimentSpec())
    tricks = old["model"].pop("tricks")
    for name in ("muon_rate", "lookahead", "batch_norm_bias_factor"):
        old["model"]["optimizer"][name] = tricks.pop(name)
    old["model"] |= tricks | {"logit_scale": 0.5}
    path = write(yaml.safe_dump(old))
    (path.parent / "checkpoints").mkdir()
    expected = ModelSpec(tricks=TricksSpec(logit_scale=0.5))
    assert read_experiment(path).model == expected
    for given in (["-c", path], [f"--config={path}"]):
        assert parse(*given, "--data.batch_size", "3").model == expected


def test_every_setting_is_explained() -> None:
    """The help text has a sentence for every field."""
    for spec in (
        NetworkSpec,
        OptimizerSpec,
        ScheduleSpec,
        ModelSpec,
        AugmentationSpec,
        DataSpec,
        TrainerSpec,
        TricksSpec,
    ):
        for field in dataclasses.fields(spec):
            assert f"        {field.name}: " in (spec.__doc__ or "")
    text = parser().format_help()
    assert "largest global norm of the gradients" in text
    assert "share of the target spread evenly over all classes" in text


# --- no framework -----------------------------------------------------------------------------------------------------

FRAMEWORKS = ("torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning", "tensorflow", "keras", "jax")


def loaded_after(code: str) -> set[str]:
    """Which frameworks a fresh interpreter has loaded after running the code."""
    code += f"; import sys; print('loaded:', *(name for name in {FRAMEWORKS} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import lightning_vgg",
        "import lightning_vgg.experiment.parsing",
        "from lightning_vgg.experiment.parsing import *; framework_free_parser('a', 'b').parse_args([])",
    ],
)
def test_importing_loads_no_framework(code: str) -> None:
    assert loaded_after(code) == set()


def test_this_check_would_notice() -> None:
    assert loaded_after("import lightning_vgg.training.optim") >= {"torch"}
