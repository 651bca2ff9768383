"""Every shipped configuration trains, shortened by flags, on real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import CONFIGS, Command, only_run

BASE = CONFIGS / "vgg" / "base.yaml"
ELSEWHERE = CONFIGS / "vgg" / "fast.yaml"  # test_fast_options.py trains it, a smaller network
OVERLAYS = sorted({*(CONFIGS / "vgg").glob("*.yaml")} - {BASE, ELSEWHERE})
SHORT = (
    "--data.source",
    "digits",
    "--data.train_images",
    "20",
    "--data.batch_size",
    "18",
    "--trainer.max_epochs",
    "1",
    "--trainer.limit_val_batches",
    "1",
    "--trainer.limit_test_batches",
    "1",
    "--data.eval_batch_size",
    "20",
    "--trainer.logger",
    "false",
)


@pytest.mark.parametrize(
    "files",
    [[CONFIGS / "quickstart.yaml"], [BASE], *([BASE, overlay] for overlay in OVERLAYS)],
    ids=lambda files: files[-1].stem,
)
def test_configuration_trains(files: list[Path], command: Command, tmp_path: Path) -> None:
    command("fit", *(word for file in files for word in ("-c", file)), *SHORT)
    record = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert 0 <= record["test_acc"] <= 1


def test_every_block_of_the_lesson_has_an_overlay() -> None:
    text = "".join(path.read_text() for path in OVERLAYS)
    for line in (
        "Block: conv - batch norm - conv - maxpool - dropout",
        "Block: batch norm - conv - batch norm - conv - maxpool - dropout",
        "Block: conv - batch norm - conv - batch norm - maxpool",
        "Block: conv - dropout - conv - dropout - maxpool",
        "Block: dense - dropout",
        "Block: dense - batch norm",
        "Block: dense - batch norm - dropout",
    ):
        assert f'"{line}"' in text


def test_the_real_images_train(test_data: Path, command: Command, tmp_path: Path) -> None:
    archive = test_data / "data" / "cifar10-jpeg.tar.xz"
    command("fit", "-c", BASE, *SHORT, "--data.source", "folder", "--data.root", archive, "--data.train_images", "200")
    record = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert record["images"] == {"train": 180, "val": 20, "test": 10000}
    assert record["class_names"][:2] == ["airplane", "automobile"]
