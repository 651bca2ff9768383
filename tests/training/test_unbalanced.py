"""Photos of which one class has many and another few, as whole runs of both command lines."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score, f1_score

from lightning_vgg.runs.best import best_row
from lightning_vgg.runs.folder import RunFolder

IMAGES = {"zero": 150, "one": 90, "two": 20, "three": 10}
FIT = """
    fit --data.source folder --data.root photos --data.cache_dir cache --data.image_size 8 --data.batch_size 32
    --data.class_weight balanced --model.best_by val_balanced_acc --model.network.conv_block 'conv - maxpool'
    --model.network.filters [4] --model.network.units [] --model.optimizer.learning_rate 0.02 --trainer.max_epochs 4
    --trainer.logger false --name run
"""


def make_photos(folder: Path) -> None:
    digits = load_digits()
    for label, (name, count) in enumerate(IMAGES.items()):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:count]):
            Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / name / f"{number:03}.png")


@pytest.mark.parametrize("program", ["lightning-vgg", pytest.param("keras-reference", marks=pytest.mark.slow)])
def test_counts_are_shown_and_classes_are_scored(program: str, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    lines = run_here(tmp_path, program)(FIT).stdout.splitlines()
    run = RunFolder(tmp_path / "runs" / "vgg" / "run")
    record, rows = run.read_record(), run.read_history()

    counts = record["images_per_class"]
    assert {name: sum(of_part[name] for of_part in counts.values()) for name in IMAGES} == IMAGES
    assert {part: sum(of_part.values()) for part, of_part in counts.items()} == record["images"]
    table = [line.split() for line in lines[: lines.index(next(line for line in lines if line.startswith("epoch")))]]
    assert table == [["images", *counts], *([name, *(str(part[name]) for part in counts.values())] for name in IMAGES)]

    with (run.path / "val_classes.csv").open(newline="") as file:
        of_epochs = [*csv.DictReader(file)]
    for row in rows:
        classes = [each for each in of_epochs if int(each["epoch"]) == row["epoch"]]
        images, recall, f1 = (np.array([float(each[key]) for each in classes]) for key in ("images", "recall", "f1"))
        assert {each["class"]: int(each["images"]) for each in classes} == counts["val"]
        assert row["val_acc"] == pytest.approx(np.average(recall, weights=images))
        assert (row["val_balanced_acc"], row["val_macro_f1"]) == pytest.approx((recall.mean(), f1.mean()))

    best = best_row(rows, "val_balanced_acc")
    assert f"val_balanced_acc {best['val_balanced_acc']:.2%}" in next(
        line for line in lines if line.startswith(f"epoch {best['epoch']:3.0f}/")
    )
    if program == "lightning-vgg":
        assert record["checkpoint"] == f"checkpoints/best_step{best['step']}.ckpt"
    labels, logits = run.read_predictions()
    assert record["test_balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert record["test_macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert f"test_balanced_acc {record['test_balanced_acc']:.2%}  test_macro_f1" in lines[-3]
