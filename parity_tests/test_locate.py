"""Each planted fault is found in the layer or stage, and in the quantity, where it was planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from lightning_vgg import cli
from lightning_vgg.experiment.specs import BackboneSpec, ExperimentSpec, ModelSpec, NetworkSpec
from parity_tests.ladder import Ladder
from parity_tests.locate import Finding, locate
from parity_tests.mutants import MUTANTS, Mutant, plain_spec
from parity_tests.relation import of_statistics, relation
from parity_tests.test_mutants import DATA, every_third, ladder_for, tinted_digits
from parity_tests.transfer_ladder import ladder_of


def first_culprit(ladder: Ladder) -> Finding | None:
    findings = locate(ladder)
    return next((finding for finding in findings if finding.is_culprit), None)


@pytest.fixture(scope="module")
def culprit_without_fault() -> Callable[[Mutant], Finding | None]:
    found: dict[str, Finding | None] = {}

    def culprit(mutant: Mutant) -> Finding | None:
        spec = mutant.spec(plain_spec())
        key = repr((spec, mutant.class_weights, mutant.accumulated))
        if key not in found:
            found[key] = first_culprit(ladder_for(mutant, spec))
        return found[key]

    return culprit


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutant", [pytest.param(mutant, id=mutant.name, marks=every_third(number)) for number, mutant in enumerate(MUTANTS)]
)
def test_planted_fault_is_located(mutant: Mutant, culprit_without_fault: Callable[[Mutant], Finding | None]) -> None:
    spec = mutant.spec(plain_spec())
    assert culprit_without_fault(mutant) is None
    with mutant.plant():
        wrong = replace(spec, semantics_except=[*spec.semantics_except, *mutant.switches])
        culprit = first_culprit(ladder_for(mutant, wrong))
    assert culprit is not None
    assert fnmatchcase(f"{culprit.kind}: {culprit.quantity}", mutant.place), culprit
    assert mutant.words in culprit.relation, culprit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "place"), [("adam_formula", "optimizer: *, step 1"), ("clip_epsilon", "clipping: *")]
)
def test_a_wrong_step_is_located_on_a_backbone_too(switch: str, place: str) -> None:
    backbone = BackboneSpec("none", "keras_caffe", "block1_pool", "average")
    network = NetworkSpec(conv_block="batch norm", filters=[64], units=[])
    wrong = ModelSpec(network=network, backbone=backbone, semantics_except=[switch])
    culprit = first_culprit(ladder_of(ExperimentSpec(model=wrong, data=DATA), tinted_digits()))
    assert culprit is not None and fnmatchcase(f"{culprit.kind}: {culprit.quantity}", place), culprit


def test_relations_are_said_in_words() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 5, 3))
    assert relation(0.75 * values, values, {"1 - rate": 0.75}) == "ratio 0.75 = 1 - rate"
    assert relation(2 * values, values, {"1 - rate": 0.75}) == "ratio 2"
    assert relation(values[..., ::-1] - np.arange(3), values, {}) == "the channels in reverse order"
    assert relation(values * [1, 2, 3] + 1, values, {}) == "another mean or scale of each channel"
    assert relation(values[::-1], values, {}) == "the same values in another order"
    assert relation(values[0], values, {}) == "shape (5, 5, 3) instead of (4, 5, 5, 3)"
    flat = values.ravel()
    assert relation(flat + 0.1 * np.abs(flat).max(), flat, {}) == "differs by up to 1.0e-01 of the largest value"


def test_a_running_statistic_tells_another_momentum_from_another_variance() -> None:
    before, batch = np.random.default_rng(0).normal(size=(2, 6))
    right = 0.99 * before + 0.01 * batch
    assert of_statistics(before, 0.9 * before + 0.1 * batch, right, 0.99, {}) == "another momentum: 0.9 instead of 0.99"
    unbiased = 0.99 * before + 0.01 * batch * 8 / 7
    assert of_statistics(before, unbiased, right, 0.99, {"n/(n-1)": 8 / 7}) == "ratio 1.142857 = n/(n-1)"


@pytest.mark.slow
def test_the_command_names_the_first_culprit_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    Path("tiny.yaml").write_text(
        "model: {network: {filters: [2], units: [4]}}\ndata: {source: digits, image_size: 8, train_images: 100}\n"
    )
    command = "parity -c tiny.yaml --locate --json found.json".split()
    assert cli.run(command) == 0
    assert "no culprit" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_status:
        cli.run([*command, "--model.semantics_except", "[batch_norm_variance]"])
    assert exit_status.value.code == 1
    words = "block1.batch_norm1: running variance; ratio 1.000489 = n/(n-1)"
    assert f"first culprit: {words}" in capsys.readouterr().out
    figures = json.loads(Path("found.json").read_text())
    assert figures["culprit"] == words and not figures["passed"]
    assert [each["quantity"] for each in figures["located"] if each["culprit"]] == ["running variance"]
