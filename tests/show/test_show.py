"""``lightning-vgg show``: what is in the pictures, on a small run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from conftest import CONFIGS, only_run, printed_by, run_here
from PIL import Image

from lightning_vgg.cli import run
from lightning_vgg.experiment.draws import draw_epoch
from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.parsing import parse_experiment
from lightning_vgg.experiment.specs import AugmentationSpec, DataSpec, NetworkSpec
from lightning_vgg.images.dataset import load_dataset
from lightning_vgg.images.preprocessing import PREPROCESSING
from lightning_vgg.show.augmentation import examples, seen
from lightning_vgg.training.data import DeviceImages, TrainLoader
from lightning_vgg.weights.source import expected_normalization

Show = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small network."""
    folder = tmp_path_factory.mktemp("show")
    run_here(folder)(f"""
        fit -c {CONFIGS}/quickstart.yaml --model.network.filters [8,12] --trainer.max_epochs 3
        --data.train_images 300 --trainer.logger false
    """)
    return only_run(folder)


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Run ``lightning-vgg show ARGUMENTS`` in this process; returns what it printed."""

    def run_here(*arguments: str | Path, status: int = 0) -> str:
        assert run(["show", *map(str, arguments)]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run_here


def test_network_lists_every_layer_with_its_shape_and_parameters(show: Show, tmp_path: Path) -> None:
    output = show("network", "-c", CONFIGS / "vgg" / "base.yaml", "--output", tmp_path / "network.png")
    plan = plan_network(NetworkSpec(units=[128], dropout=0.25), 32, 10)
    for layer in plan.layers:
        (row,) = [line for line in output.splitlines() if f" {layer.name} " in line]
        assert "×".join(map(str, layer.output_shape)) in row
        assert f" {layer.trainable_parameters:,} " in row or not layer.trainable_parameters
    assert f"{plan.trainable_parameters:,} parameters" in output
    with Image.open(tmp_path / "network.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**16)}
    assert len(colours) > 20


IMAGES = ("-c", CONFIGS / "quickstart.yaml", "--data.train_images", "60", "--data.batch_size", "16")


@pytest.mark.parametrize("flags", [[], ["--data.augmentation.mixup", "1"], ["--data.grayscale", "true"]])
def test_augmentation_is_drawn(flags: list[str], show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert show("augmentation", *IMAGES, *flags).strip() == "augmentation.png"
    with Image.open("augmentation.png") as picture:
        assert min(picture.size) > 500
        assert np.asarray(picture.convert("L")).std() > 10


DIGITS = DataSpec(source="digits", image_size=8, train_images=60, batch_size=16)


def test_a_flipped_image_is_shown_in_its_own_pixels() -> None:
    dataset = load_dataset(DIGITS)
    spec = replace(DIGITS, augmentation=AugmentationSpec("alternating"))
    shown = [seen(dataset, spec, 0, epoch, 7) for epoch in (0, 1)]
    image = dataset.train.images[7]
    assert {pixels.tobytes() for pixels, _ in shown} == {image.tobytes(), image[:, ::-1].tobytes()}
    assert {label for _, label in shown} == {""}


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_mixed_image_is_shown_as_training_has_it(epoch: int) -> None:
    dataset, augmentation = load_dataset(DIGITS), AugmentationSpec(rotation=0.1, mixup=1.0)
    count = len(dataset.train.labels)
    loader = TrainLoader(
        count, 16, lambda epoch: draw_epoch(5, epoch, count, 8, augmentation), epoch=lambda: epoch, share=slice(None)
    )
    on_device = DeviceImages(dataset.train, dataset.normalization, torch.device("cpu"), torch.float32)
    batches = [(rows.image[rows.mixing.own], *on_device.training_batch(rows, 0, 10)[:2]) for rows in loader]
    index, images, shares = (torch.cat(parts) for parts in zip(*batches, strict=True))
    (place,) = torch.where(index == 7)
    pixels, label = seen(dataset, replace(DIGITS, augmentation=augmentation), 5, epoch, 7)
    expected = images[place][0].permute(1, 2, 0) * torch.tensor(dataset.normalization.std)
    np.testing.assert_allclose(pixels, expected + torch.tensor(dataset.normalization.mean), atol=0.51)
    assert label.startswith(f"{shares[place].max():.0%} {dataset.class_names[int(shares[place].argmax())]}")


def test_every_augmentation_has_an_example() -> None:
    shown = [augmentation for _, augmentation in examples(32)]
    for field in fields(AugmentationSpec):
        default = getattr(AugmentationSpec(), field.name)
        assert sum(getattr(augmentation, field.name) != default for augmentation in shown) == 1, field.name


def test_augmentation_needs_no_framework(tmp_path: Path) -> None:
    code = f"""
        import sys
        from lightning_vgg.cli import run
        run(["show", "augmentation", *{[*map(str, IMAGES)]}, "--output", {str(tmp_path / "a.png")!r}])
        print(sorted({{"torch", "lightning", "keras", "tensorflow"}} & set(sys.modules)))
    """
    assert printed_by(dedent(code)).splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["IMAGENET1K_V1"], "torchvision"),
        (["none"], "cifar"),
        (["none", "--model.backbone.preprocessing", "keras_caffe"], "keras_caffe"),
    ],
)
def test_the_colour_of_what_is_cut_out_is_that_of_the_weights(weights: list[str], expected: str) -> None:
    spec = parse_experiment(["--model.backbone.weights", *weights]).model
    assert expected_normalization(spec.backbone, spec.resolved_semantics) == PREPROCESSING[expected].normalization


def test_network_on_a_backbone_is_what_trains_above_it(show: Show) -> None:
    output = show("network", "-c", CONFIGS / "transfer" / "base.yaml", "--model.backbone.weights", "none")
    assert "4×4×256" in output and "41,482 parameters" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["filters"],
        ["mistakes"],
        ["activations", "3"],
        ["activations", "3", "--layer", "block1.conv1"],
        ["attention", "3"],
    ],
)
def test_pictures_are_drawn(arguments: list[str], trained: Path, show: Show, tmp_path: Path) -> None:
    what, *rest = arguments
    before = sorted(trained.iterdir())
    assert show(what, trained, *rest, "--output", tmp_path / "picture.png").strip() == str(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 10
    assert sorted(trained.iterdir()) == before


def test_an_image_may_be_a_file(trained: Path, show: Show, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    show("attention", trained, tmp_path / "red.png", "--output", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filers"], "there is no 'filers' to show"),
        (["attention", "RUN", "3", "--layer", "block9"], "--layer: there is no convolution block9; there are block1"),
        (["activations", "RUN", "360"], "there is no test image 360: they are 0 to 359"),
        (["filters", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_what_the_user_can_mend(arguments: list[str], message: str, trained: Path, show: Show) -> None:
    assert message in show(*[trained if word == "RUN" else word for word in arguments], status=2)
