"""What a history looks like that went wrong, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import only_run, run_here

from lightning_vgg.runs.hints import hints

GUESSING = math.log(10)
DEEP = "'conv - conv - conv - conv - maxpool'"


def history(*losses: float, **others: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "step": 100 * epoch, "train_loss": loss, **others} for epoch, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([GUESSING, GUESSING], "has not learned: its last training loss, 2.303"),
        ([2.35, 2.31], "put 'batch norm' into"),
        ([1.0, 3.5], "jumped from 1.000 to 3.500 in epoch 2"),
        ([1.5, 0.9, 12.0, 1.1], "jumped from 0.900 to 12.000 in epoch 3"),
    ],
)
def test_what_went_wrong_is_said(losses: list[float], says: str) -> None:
    assert any(says in hint for hint in hints(history(*losses), classes=10))


@pytest.mark.parametrize("losses", [[], [2.2], [1.9, 1.2, 0.7], [0.1, 0.35, 0.1], [40.0, 2.0, 1.0]])
def test_nothing_is_said_of_a_training_that_went_well(losses: list[float]) -> None:
    assert hints(history(*losses), classes=10) == []


def test_nothing_is_said_of_a_few_steps() -> None:
    assert hints([{"epoch": 1, "step": 9, "train_loss": 2.7}], classes=10) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite(value: float) -> None:
    (hint,) = hints(history(1.0, 0.9, val_loss=value), classes=10)
    assert hint.startswith("the validation loss is not finite in epoch 1")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["lightning-vgg", "keras-reference"])
def test_a_deep_network_without_batch_norm_gets_the_hint_at_the_end(program: str, tmp_path: Path) -> None:
    printed = run_here(tmp_path, program)(f"""
        fit --data.source digits --data.train_images 200 --data.batch_size 3 --trainer.max_epochs 1
        --trainer.logger false --model.network.conv_block {DEEP} --model.network.filters [4,4,4,4]
        --model.network.units [] --model.optimizer.learning_rate 1e-9
    """).stdout
    assert "hint     the network has not learned" in printed
    report = run_here(tmp_path)("report", only_run(tmp_path)).stdout
    assert "report" in report
    page = next(tmp_path.rglob("report.html")).read_text()
    assert "Trainings that went wrong" in page and "the network has not learned" in page
