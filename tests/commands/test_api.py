"""The functions of ``lightning_vgg``: what the command line does, from a program."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, Command, history_without_seconds, only_run
from PIL import Image

import lightning_vgg
from lightning_vgg import ExperimentError, RunFolder
from lightning_vgg.cli import PROGRAM
from lightning_vgg.runs.folder import MEASURED, TESTED

SMALL = {
    "data.source": "digits",
    "data.train_images": 300,
    "data.batch_size": 50,
    "model.network.filters": [8, 12],
    "model.network.units": [],
    "trainer.max_epochs": 2,
}

FUNCTIONS = {
    "fit": ["lightning_vgg.fit"],
    "validate": ["lightning_vgg.evaluate"],
    "test": ["lightning_vgg.evaluate"],
    "predict": ["lightning_vgg.predict_probabilities"],
    "show": ["lightning_vgg.show_augmentation", "lightning_vgg.show_network", "lightning_vgg.show_run"],
    "features": ["lightning_vgg.extract_features"],
    "export": ["lightning_vgg.export_weights"],
    "compare": ["lightning_vgg.compare_arms"],
    "twin": ["lightning_vgg.train_twins"],
    "report": ["lightning_vgg.report_runs"],
    "dashboard": ["lightning_vgg.report.dashboard.save"],
    "tune": ["lightning_vgg.tune_settings"],
    "configs": ["lightning_vgg.experiment.shipped.shipped_configs"],
    "port": ["parity_tests.port_keras_model"],
    "parity": ["lightning_vgg.measure_parity", "parity_tests.compare_pair"],
}
STEPS_INSIDE = {"ExperimentError", "RunFolder", "build_network", "load_images", "parse_recipe", "plan_network"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("api")
    return lightning_vgg.fit(SMALL, {"trainer.default_root_dir": folder, "trainer.logger": False})


def test_every_command_has_its_function_and_the_other_names_are_steps_inside_them() -> None:
    assert FUNCTIONS.keys() == PROGRAM.commands.keys()
    names = [name for names in FUNCTIONS.values() for name in names]
    for name in names:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
    ours = {
        name.removeprefix("lightning_vgg.")
        for name in names
        if name.startswith("lightning_vgg.") and name.count(".") == 1
    }
    assert set(lightning_vgg.__all__) == ours | STEPS_INSIDE


@pytest.mark.parametrize("package", ["lightning_vgg", "keras_reference"])
def test_importing_it_and_looking_at_every_name_loads_no_framework(package: str) -> None:
    code = (
        f"import sys, {package} as it\n"
        "heavy = {'torch', 'lightning', 'keras', 'tensorflow', 'wandb', 'sklearn', 'matplotlib', 'optuna'}\n"
        "print(sorted((heavy | {'numpy', 'yaml', 'lightning_vgg.api'}) & set(sys.modules)))\n"
        "[getattr(it, name) for name in it.__all__]\n"
        "print(sorted(heavy & set(sys.modules)), set(it.__all__) <= set(dir(it)))\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines() == ["[]", "[] True"]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        _ = lightning_vgg.fitt


def test_a_run_is_the_command_lines_to_the_last_digit(trained: RunFolder, command: Command, tmp_path: Path) -> None:
    flags = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    command("fit", *flags, "--trainer.logger", "false", "--name", "x")
    other = only_run(tmp_path)
    assert history_without_seconds(other) == history_without_seconds(trained.path)
    assert RunFolder.open(other).test_acc == trained.test_acc


def test_files_come_before_names_and_later_ones_win(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {network: {filters: [4]}}")
    settings = ({"model.network.units": [6]}, CONFIGS / "vgg" / "base.yaml", str(overlay), {"data.image_size": 8})
    plan = lightning_vgg.plan_network(*settings, {"data.image_size": 16}, num_classes=3)
    assert [plan.layers[0].width, plan.layers[-2].width, plan.num_classes] == [4, 6, 3]
    assert plan.input_shape == (16, 16, 3)


def test_the_programs_own_arguments_are_neither_read_nor_changed(
    monkeypatch: pytest.MonkeyPatch, trained: RunFolder
) -> None:
    argv = ["kernel.py", "-f", "connection.json", "-c", "nowhere.yaml"]
    monkeypatch.setattr(sys, "argv", list(argv))
    assert lightning_vgg.evaluate(trained)["test_acc"] == trained.test_acc
    assert sys.argv == argv


def test_runs_of_one_program_have_curves_of_their_own_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {**SMALL, "trainer.default_root_dir": tmp_path, "trainer.max_epochs": 1}
    runs = [lightning_vgg.fit(settings, {"name": name}) for name in ("first", "second")]
    for run in runs:
        (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
        assert run.read_record()["wandb_id"] in file.name


def test_evaluate_gives_the_recorded_results(trained: RunFolder) -> None:
    record = trained.read_record()
    tested = lightning_vgg.evaluate(trained)
    assert tested == {name: pytest.approx(record[name], rel=1e-6) for name in TESTED}
    validated = lightning_vgg.evaluate(trained.path, {"data.eval_batch_size": 7}, part="val")
    best = max(trained.read_history(), key=lambda row: row["val_acc"])
    assert validated == {name: pytest.approx(best[name], rel=1e-5) for name in MEASURED if name.startswith("val_")}


def test_the_network_is_the_one_that_fit_starts_with() -> None:
    network, again, other = (
        lightning_vgg.build_network(SMALL, {"seed_everything": seed}, num_classes=7) for seed in (1, 1, 2)
    )
    images = torch.rand(2, 3, 32, 32)
    network.eval(), again.eval(), other.eval()
    assert network(images).shape == (2, 7)
    assert torch.equal(network(images), again(images))
    assert not torch.equal(network(images), other(images))


def test_images_are_those_of_the_run(trained: RunFolder) -> None:
    images = lightning_vgg.load_images(SMALL)
    assert images.fingerprint == trained.read_record()["data_fingerprint"]
    assert trained.read_record()["images"] == {"train": 270, "val": 30, "test": 360}
    assert [len(part.labels) for part in (images.train, images.val, images.test)] == [270, 30, 360]


def test_probabilities_of_files(trained: RunFolder, tmp_path: Path) -> None:
    images = lightning_vgg.load_images(SMALL).test
    Image.fromarray(images.images[4]).save(tmp_path / "4.png")
    probabilities = lightning_vgg.predict_probabilities(trained, [str(tmp_path / "4.png")])
    logits = trained.read_predictions()[1][4]
    np.testing.assert_allclose(probabilities[0], np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "arguments", [("filters",), ("mistakes",), ("activations", 3, "block1.conv1"), ("attention", 3)]
)
def test_pictures_are_those_of_show(arguments: Any, trained: RunFolder, tmp_path: Path) -> None:
    from lightning_vgg.cli import run

    what, *rest = arguments
    flags = [*map(str, rest[:1]), *(word for layer in rest[1:] for word in ("--layer", layer))]
    assert run(["show", what, str(trained.path), *flags, "--output", str(tmp_path / "picture.png")]) == 0
    np.testing.assert_array_equal(lightning_vgg.show_run(trained, *arguments), Image.open(tmp_path / "picture.png"))


def test_show_augmentation_draws_what_the_command_draws(tmp_path: Path) -> None:
    from lightning_vgg.cli import run

    flags = ["--data.source", "digits", "--data.train_images", "50", "--data.augmentation.zoom", "0.3"]
    assert run(["show", "augmentation", *flags, "--output", str(tmp_path / "seen.png")]) == 0
    picture = lightning_vgg.show_augmentation(
        {"data.source": "digits", "data.train_images": 50, "data.augmentation.zoom": 0.3}
    )
    np.testing.assert_array_equal(picture, Image.open(tmp_path / "seen.png"))


def test_show_network_draws_what_the_command_draws(tmp_path: Path) -> None:
    from lightning_vgg.cli import run

    assert run(["show", "network", "--model.network.filters", "[8]", "--output", str(tmp_path / "network.png")]) == 0
    picture = lightning_vgg.show_network({"model.network.filters": [8]})
    np.testing.assert_array_equal(picture, Image.open(tmp_path / "network.png"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: lightning_vgg.fit({"model.network.filter": [1]}), "did you mean 'model.network.filters'?"),
        (lambda run: lightning_vgg.fit("missing.yaml"), "missing.yaml: No such file"),
        (lambda run: lightning_vgg.show_run(run, "attention"), "attention are of an image"),
        (lambda run: lightning_vgg.evaluate(run, {"data.image_size": 16}), "data.image_size: 32 in the run, 16 now"),
        (lambda run: lightning_vgg.extract_features(SMALL), "name one by model.backbone.weights"),
        (lambda run: lightning_vgg.measure_parity({"data.sauce": "digits"}), "unknown flag --data.sauce"),
        (lambda run: lightning_vgg.report_runs(run.path.parent), "is not a run folder"),
    ],
)
def test_what_the_user_can_mend(call: Any, message: str, trained: RunFolder) -> None:
    with pytest.raises(ExperimentError, match=message.replace("?", r"\?")):
        call(trained)


def test_features_are_written_kept_and_used_by_fit(trained: RunFolder, command: Command, tmp_path: Path) -> None:
    settings = {
        **SMALL,
        "model.backbone.weights": trained,
        "model.backbone.layer": "block1_pool",
        "data.cache_dir": tmp_path / "cache",
        "model.network.filters": [],
        "model.network.units": [],
    }
    features = lightning_vgg.extract_features(settings, {"model.network.filters": [4] * 9})  # which would not fit
    assert {part: each.features.shape for part, each in features.items()} == {
        "train": (270, 16, 16, 8),
        "val": (30, 16, 16, 8),
        "test": (360, 16, 16, 8),
    }
    network = lightning_vgg.build_network(SMALL)
    network.load_state_dict(
        {
            name.removeprefix("network."): tensor
            for name, tensor in torch.load(trained.checkpoint("best"), weights_only=True)["state_dict"].items()
        },
        strict=False,
    )
    images = lightning_vgg.load_images(SMALL)
    pixels = (images.test.images[:5] - np.float32(images.normalization.mean)) / np.float32(images.normalization.std)
    with torch.inference_mode():
        expected = network.eval()[0](torch.from_numpy(pixels).float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    # The block ends with a dropout, which does nothing here.
    np.testing.assert_allclose(features["test"].features[:5], expected, rtol=1e-4, atol=1e-5)

    flags = [f"--{name}={value.path if name.endswith('weights') else value}" for name, value in settings.items()]
    said = command("features", *flags, "--output", tmp_path / "features.npz")
    assert (said.stdout, said.stderr) == (f"{tmp_path / 'features.npz'}\n", "")
    with np.load(tmp_path / "features.npz") as arrays:
        for part, each in features.items():
            np.testing.assert_array_equal(arrays[part], each.features)
            np.testing.assert_array_equal(arrays[f"{part}_labels"], each.labels)
    kept = sorted((tmp_path / "cache").glob("features-*"))
    lightning_vgg.fit(settings, {"trainer.default_root_dir": tmp_path, "trainer.logger": False})
    assert len(kept) == 3 and sorted((tmp_path / "cache").glob("features-*")) == kept
