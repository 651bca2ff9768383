"""From a folder of photos to a report in one command, in both programs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CONFIGS, run_here
from PIL import Image

from lightning_vgg.api import plan_network
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.mistakes import read_mistakes, shown_mistakes

PROGRAMS = ("lightning-vgg", "keras-reference")
SMALL = """
    --data.root photos --data.cache_dir cache --data.image_size 32 --model.backbone.weights none
    --model.backbone.layer block2_pool --model.backbone.unfreeze '{1: block1_pool}' --model.network.filters [128]
    --trainer.max_epochs 2 --trainer.logger false --name run
"""


@pytest.fixture(scope="module", params=PROGRAMS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """A program, the folder it worked in, and what it said: of photos that nobody could tell apart."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            photo = Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8))
            photo.save(folder / "photos" / name / f"IMG_{number:04}.jpg")
    said = run_here(folder, request.param)(f"fit -c transfer/photos.yaml {SMALL}").stdout
    return request.param, folder, said


def test_it_trains_the_classifier_then_the_top_block(trained: tuple[str, Path, str]) -> None:
    _, folder, said = trained
    stages = re.findall(r"trainable parameters ([\d,]+)  frozen [\d,]+ \(up to (\w+)\)", said)
    # 128 scales and shifts, and 3 logits of 128; then block 2's kernels of 3x3x64 and 3x3x128, with their biases.
    head, block = 2 * 128 + 3 * 129, 128 * (9 * 64 + 1) + 128 * (9 * 128 + 1)
    assert stages == [(f"{head:,}", "block2_pool"), (f"{head + block:,}", "block1_pool")]
    run = RunFolder.open(folder / "runs" / "photos" / "run")
    assert run.read_record()["images"] == {"train": 24, "val": 3, "test": 9}
    assert len(run.read_record()["class_weights"]) == 3


def test_it_ends_with_a_report_of_its_mistakes(trained: tuple[str, Path, str]) -> None:
    _, folder, said = trained
    run = RunFolder.open(folder / "runs" / "photos" / "run")
    assert said.splitlines()[-1] == f"report   {Path('runs/photos/run/report.html')}"
    labels, logits = run.read_predictions()
    about = read_mistakes(run)
    assert about is not None
    assert [*about["pictures"]] == shown_mistakes(labels, logits) != []
    assert about["layer"] == "block2_conv2" and about["without_grad_cam"] is None
    names = {file for each in about["pictures"].values() for file in (each["picture"], each["grad_cam"])}
    assert {f"mistakes/{path.name}" for path in run.mistakes.iterdir()} == names | {"mistakes/mistakes.json"}
    page = (run.path / "report.html").read_text()
    assert '<h2 id="mistakes">The worst mistakes</h2>' in page
    assert f"{(logits.argmax(1) != labels).sum()} of 9 test images were classified wrongly." in page
    assert json.loads((run.path / "report.json").read_text())["mistakes"]["layer"] == "block2_conv2"
    assert yaml.safe_load((run.path / "config.yaml").read_text())["report"] is True


def test_the_pictures_are_the_photos_as_the_network_got_them(trained: tuple[str, Path, str]) -> None:
    """The middle of a photo, 40 pixels wide, shrunk to 32 and magnified by whole numbers again."""
    _, folder, _ = trained
    run = RunFolder.open(folder / "runs" / "photos" / "run")
    from lightning_vgg.api import load_images

    test = load_images(
        run.path / "config.yaml", {"data.root": str(folder / "photos"), "data.cache_dir": str(folder / "cache")}
    ).test
    about = read_mistakes(run)
    assert about is not None
    for number, each in about["pictures"].items():
        with Image.open(run.path / each["picture"]) as picture:
            assert picture.size == (224, 224)
            pixels = np.asarray(picture).astype(int)[3::7, 3::7]
        difference = np.abs(pixels - test.images[number]).mean()
        others = [np.abs(pixels - other).mean() for index, other in enumerate(test.images) if index != number]
        assert difference < 0.5 * min(others)


def test_testing_again_makes_them_again_and_without_a_report_none_are_left(
    trained: tuple[str, Path, str], tmp_path: Path
) -> None:
    program, folder, _ = trained
    shutil.copytree(folder / "runs", tmp_path / "runs")
    shutil.copytree(folder / "photos", tmp_path / "photos")
    run, command = tmp_path / "runs" / "photos" / "run", run_here(tmp_path, program)
    before = {path.name: path.read_bytes() for path in (run / "mistakes").iterdir()}
    shutil.rmtree(run / "mistakes")
    (run / "report.html").unlink()
    again = command("test -c runs/photos/run/config.yaml").stdout
    assert again.splitlines()[-1] == "report   runs/photos/run/report.html"
    assert {path.name: path.read_bytes() for path in (run / "mistakes").iterdir()} == before
    assert "report  " not in command("test -c runs/photos/run/config.yaml --report false").stdout
    assert not (run / "mistakes").exists()


def test_the_shipped_settings_fit_together() -> None:
    plan = plan_network(CONFIGS / "transfer" / "photos.yaml", {"model.backbone.weights": "none"}, num_classes=4)
    assert [(layer.name, layer.output_shape) for layer in plan.layers] == [
        ("block1.batch_norm1", (1, 1, 512)),
        ("classifier", (4,)),
    ]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("", "data.source: folder needs data.root: a folder with a folder of images for each class"),
        ("--data.root nowhere", "data.root: there is no folder or archive nowhere"),
        ("--data.root . --report perhaps", 'Parser key "report"'),
        ("--data.root . --reports true", "unknown flag --reports; did you mean 'report'?"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_downloaded(
    program: str, flags: str, complaint: str, tmp_path: Path
) -> None:
    assert complaint in run_here(tmp_path, program)(f"fit -c transfer/photos.yaml {flags}", status=2).stderr
    assert not [*tmp_path.iterdir()]


def test_a_network_without_a_backbone_has_a_report_too(tmp_path: Path) -> None:
    run_here(tmp_path)(
        "fit -c vgg/base.yaml --data.source digits --data.image_size 16 --data.train_images 60 --data.grayscale true "
        "--model.network.filters [4,4] --trainer.max_epochs 1 --trainer.logger false --report true --name run"
    )
    about = read_mistakes(RunFolder.open(tmp_path / "runs" / "vgg" / "run"))
    assert about is not None
    assert about["layer"] == "block2.conv2" and len(about["pictures"]) > 12
