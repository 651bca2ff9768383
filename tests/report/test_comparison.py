"""Which runs are compared, and whether they come in pairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_comparison, make_run

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.report.comparison import Comparison, are_paired, gather_runs, read_comparison
from lightning_vgg.runs.folder import RunFolder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_comparison(tmp_path_factory.mktemp("made"))


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A comparison.json, with its runs, that a test may damage."""
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / made.name


def test_a_comparison_is_read_with_its_runs_and_failures(path: Path, tmp_path: Path) -> None:
    comparison = read_comparison(path)
    assert (comparison.experiment, comparison.margin, comparison.reference) == ("made", 0.05, "keras")
    assert {arm: list(runs) for arm, runs in comparison.arms.items()} == {
        "lightning-keras": [0, 1, 2, 3],
        "lightning-torch": [0, 1, 2, 3],
        "keras": [0, 1, 2, 3],
        "lightning-keras-rounded": [0, 1, 2, 3],
    }
    assert comparison.arms["keras"][2].path == tmp_path / "keras_seed2"
    assert [(run.arm, run.seed, run.log) for run in comparison.failed] == [("keras", 4, tmp_path / "logs/k4.log")]
    assert (comparison.parity, comparison.ablation) == (tmp_path / "parity.json", tmp_path / "ablation.json")


def test_a_run_that_has_gone_or_never_ended_counts_as_failed(path: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "keras_seed2")
    (tmp_path / "keras_seed3" / "test_predictions.npz").unlink()
    comparison = read_comparison(path)
    assert list(comparison.arms["keras"]) == [0, 1]
    messages = {run.seed: run.message for run in comparison.failed}
    assert "gone" in messages[2] and "keras_seed2" in messages[2]
    assert "no test results" in messages[3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: None, "No such file"),
        (lambda record: "{", "damaged"),
        (lambda record: "[]", "damaged"),
        (lambda record: json.dumps({**record, "arms": 3}), "damaged"),
        (lambda record: json.dumps({key: record[key] for key in record if key != "margin"}), "margin"),
        (lambda record: json.dumps({**record, "margin": 5}), "fraction such as 0.01"),
        (lambda record: json.dumps({**record, "reference": "jax"}), "reference arm 'jax'"),
        (lambda record: json.dumps({**record, "arms": {}}), "no finished run"),
    ],
)
def test_a_damaged_comparison_says_what_is_wrong(
    path: Path, damage: Callable[[dict[str, Any]], str | None], message: str
) -> None:
    text = damage(json.loads(path.read_text()))
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ExperimentError, match=message):
        read_comparison(path)


def test_damaged_files_of_a_run_are_named(path: Path, tmp_path: Path) -> None:
    (tmp_path / "keras_seed1" / "run.json").write_text('{"framework": "ker')
    with pytest.raises(ExperimentError, match=r"keras_seed1/run\.json is damaged"):
        read_comparison(path)
    (tmp_path / "keras_seed0" / "config.yaml").write_text("model: {")
    with pytest.raises(ExperimentError, match=r"keras_seed0/config\.yaml is damaged"):
        gather_runs([RunFolder(tmp_path / "keras_seed0")], 0.01)


def test_arms_are_found_by_framework_backend_and_semantics(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "lightning", "keras", seed=0),
        make_run(tmp_path / "b", "lightning", "keras", seed=1),
        make_run(tmp_path / "c", "lightning", "torch", seed=0),
        make_run(tmp_path / "d", "keras", seed=0, backend="jax"),
        make_run(tmp_path / "e", "keras", "torch", seed=0),  # semantics mean nothing to Keras
        make_run(tmp_path / "f", "keras", "keras", seed=1),
    ]
    comparison = gather_runs(runs, 0.02)
    assert {arm: [run.path.name for run in members.values()] for arm, members in comparison.arms.items()} == {
        "lightning-keras": ["a", "b"],
        "lightning-torch": ["c"],
        "keras-jax": ["d"],
        "keras": ["e", "f"],
    }
    assert (comparison.reference, comparison.margin, comparison.experiment) == ("keras-jax", 0.02, "made")


def test_arms_of_one_kind_are_told_apart_by_the_settings_that_differ(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", settings={"batch_size": 32}),
        make_run(tmp_path / "b", settings={"batch_size": 64}),
        make_run(tmp_path / "c", "lightning", "torch", settings={"batch_size": 128}),
    ]
    comparison = gather_runs(runs, 0.01)
    assert list(comparison.arms) == [
        "lightning-keras, data.batch_size 32",
        "lightning-keras, data.batch_size 64",
        "lightning-torch",
    ]
    assert comparison.reference == "lightning-keras, data.batch_size 32"


def test_two_runs_of_one_arm_and_seed_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, seed=3) for name in ("a", "b")]
    with pytest.raises(ExperimentError, match=r"a and .*b are both lightning-keras with seed 3"):
        gather_runs(runs, 0.01)


def test_unfinished_runs_are_failures_and_alone_are_refused(tmp_path: Path) -> None:
    half = RunFolder(tmp_path / "half")
    half.write_config("experiment: made\nseed_everything: 7\n")
    comparison = gather_runs([make_run(tmp_path / "whole"), half], 0.01)
    assert [(run.arm, run.seed) for run in comparison.failed] == [("half", 7)]
    with pytest.raises(ExperimentError, match=r"half has test results"):
        gather_runs([half], 0.01)


def pair(folder: Path, settings: dict[str, Any] | None = None, **record: Any) -> Comparison:
    runs = [make_run(folder / f"k{seed}", "keras", seed=seed) for seed in (0, 1)]
    runs += [make_run(folder / "l0", seed=0), make_run(folder / "l1", seed=1, settings=settings, **record)]
    return gather_runs(runs, 0.01)


def test_arms_that_share_chance_and_weights_are_paired(tmp_path: Path) -> None:
    comparison = pair(tmp_path)
    assert are_paired(comparison.arms["lightning-keras"], comparison.arms["keras"])


@pytest.mark.parametrize(
    ("settings", "record"),
    [
        ({"batch_size": 64}, {}),
        ({"augmentation": {"flip": True}}, {}),
        ({}, {"data_fingerprint": "0" * 64}),
        ({}, {"initial_weights_sha256": "0" * 64}),
        ({}, {"initial_weights_sha256": None}),
    ],
    ids=str,
)
def test_one_seed_that_differs_parts_the_arms(tmp_path: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
    comparison = pair(tmp_path, settings, **record)
    reference = comparison.arms["keras"]
    arm = {seed: run for name in comparison.arms if name != "keras" for seed, run in comparison.arms[name].items()}
    assert not are_paired(arm, reference)
    assert are_paired({0: arm[0]}, reference)
    assert not are_paired({7: arm[0]}, reference)  # no common seed


def test_weights_that_are_not_known_are_not_taken_for_equal(tmp_path: Path) -> None:
    unknown = {0: make_run(tmp_path / "a", initial_weights_sha256=None)}
    assert not are_paired(unknown, {0: make_run(tmp_path / "b", "keras", initial_weights_sha256=None)})
