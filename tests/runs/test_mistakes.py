"""Which mistakes are shown, and the pictures of them that a run keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import CLASS_NAMES, LABELS, make_run
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.heat import overlaid, stretched
from lightning_vgg.runs.mistakes import (
    NO_CONVOLUTION,
    Attention,
    confused_pairs,
    keep_mistakes,
    read_mistakes,
    shown_mistakes,
    surest_mistakes,
)

GENERATOR = np.random.default_rng(0)
RANDOM = GENERATOR.integers(0, 6, 300), GENERATOR.normal(size=(300, 6)).astype(np.float32)
"""Labels and logits."""


def test_the_surest_mistakes_are_those_with_the_highest_probability() -> None:
    labels, logits = RANDOM
    sure = softmax(logits.astype(float), axis=1).max(1)
    wrong = sorted(
        (number for number in range(300) if logits[number].argmax() != labels[number]), key=lambda n: -sure[n]
    )
    assert surest_mistakes(labels, logits, 24) == wrong[:24]
    assert surest_mistakes(labels, np.eye(6)[labels]) == []


def test_the_pairs_are_the_largest_cells_of_the_confusion_matrix() -> None:
    labels, logits = RANDOM
    matrix = confusion_matrix(labels, logits.argmax(1))
    np.fill_diagonal(matrix, 0)
    pairs = confused_pairs(labels, logits)
    assert [pair.count for pair in pairs] == sorted(matrix.ravel(), reverse=True)[:4]
    order = surest_mistakes(labels, logits, 300)
    for pair in pairs:
        assert pair.count == matrix[pair.true, pair.predicted]
        assert {(labels[image], logits[image].argmax()) for image in pair.images} == {(pair.true, pair.predicted)}
        assert pair.images == [image for image in order if image in pair.images] and len(pair.images) == 3
    shown = shown_mistakes(labels, logits)
    assert len(set(shown)) == len(shown) <= 24
    assert {*order[:12], *(image for pair in pairs for image in pair.images)} == {*shown}


def test_with_few_mistakes_there_are_few_pairs() -> None:
    labels, logits = np.array([0, 1, 2, 2]), np.eye(3)[[0, 1, 2, 0]]
    (pair,) = confused_pairs(labels, logits)
    assert (pair.true, pair.predicted, pair.count, pair.images) == (2, 0, 1, [3])
    assert confused_pairs(labels[:3], logits[:3]) == []


def test_the_hottest_part_is_the_brightest_and_the_picture_shows_through() -> None:
    heat = np.zeros((4, 4))
    heat[1, 2] = 3.0
    over = stretched(heat, (32, 48))
    assert over.shape == (32, 48) and 0.85 < over.max() <= 1  # its peak lies between four pixels
    row, column = np.unravel_index(over.argmax(), (32, 48))
    assert 8 <= row < 16 and 24 <= column < 36
    black, white = (overlaid(np.full((32, 48, 3), shade, np.uint8), heat).astype(int) for shade in (0, 255))
    # What is left of a picture's own contrast: 70 % where the map is cold, 30 % where it is highest.
    expected = np.broadcast_to(0.7 - 0.4 * over[..., None], (32, 48, 3))
    np.testing.assert_allclose((white - black) / 255, expected, atol=1 / 255)
    assert black[row, column].sum() > black[20:, :24].sum(-1).max() + 300
    assert not stretched(np.zeros((4, 4)), (8, 8)).any()


IMAGES = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 3), np.uint8)


def half_hot(image: np.ndarray, label: int) -> np.ndarray:
    """The left half for class 1, else the right one."""
    return np.array([[1.0, 0.0]]) if label == 1 else np.array([[0.0, 1.0]])


def kept(run: RunFolder) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in run.mistakes.glob("*.jpg")}


@pytest.mark.parametrize("channels", [3, 1])
def test_the_pictures_are_those_of_the_mistakes(channels: int, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wrong=3)  # images 0, 1, 2 of classes 0, 1, 2
    keep_mistakes(run, IMAGES[..., :channels], Attention("block2.conv1", half_hot))
    about = read_mistakes(run)
    assert about is not None
    assert about == {**json.loads((run.mistakes / "mistakes.json").read_text()), "pictures": about["pictures"]}
    assert (about["layer"], about["without_grad_cam"]) == ("block2.conv1", None)
    labels, logits = run.read_predictions()
    assert [*about["pictures"]] == shown_mistakes(labels, logits) and {*about["pictures"]} == {0, 1, 2}
    files = kept(run)
    assert len(files) == 6
    for number, each in about["pictures"].items():
        assert (each["true"], each["predicted"]) == (CLASS_NAMES[number], CLASS_NAMES[number + 1])
        assert each["confidence"] == pytest.approx(softmax(logits[number].astype(float)).max())
        assert (each["picture"], each["grad_cam"]) == (f"mistakes/{number}.jpg", f"mistakes/{number}_grad_cam.jpg")
        picture, overlay = files[f"{number}.jpg"], files[f"{number}_grad_cam.jpg"]
        magnified = np.broadcast_to(IMAGES[number][..., :channels], (8, 8, 3)).repeat(28, 0).repeat(28, 1)
        assert picture.shape == overlay.shape == (224, 224, 3)
        assert np.abs(picture - magnified)[14::28, 14::28].mean() < 12  # what JPEG leaves of colours
        green = overlay[..., 1] - picture[..., 1]  # inferno ends in yellow, and begins in black
        left, right = green[:, :56].mean(), green[:, -56:].mean()
        assert (left > right + 50) == (number == 0) and (right > left + 50) == (number != 0)


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wrong=1)
    keep_mistakes(run, np.zeros((1, 500, 500, 3), np.uint8), Attention("c", half_hot))
    assert {picture.shape for picture in kept(run).values()} == {(224, 224, 3)}


def test_without_grad_cam_the_reason_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wrong=2)
    keep_mistakes(run, IMAGES, NO_CONVOLUTION)
    about = read_mistakes(run)
    assert about is not None
    assert (about["layer"], about["without_grad_cam"]) == (None, NO_CONVOLUTION)
    assert [each["grad_cam"] for each in about["pictures"].values()] == [None, None]
    assert {*kept(run)} == {"0.jpg", "1.jpg"}


def test_another_test_removes_the_pictures_of_the_one_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wrong=2)
    keep_mistakes(run, IMAGES, NO_CONVOLUTION)
    run.write_test(None, LABELS, np.eye(4, dtype=np.float32)[LABELS], {"test_loss": 0.0, "test_acc": 1.0})
    assert not run.mistakes.exists() and read_mistakes(run) is None
    keep_mistakes(run, IMAGES, NO_CONVOLUTION)
    about = read_mistakes(run)
    assert about is not None and about["pictures"] == {}


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wrong=2)
    keep_mistakes(run, IMAGES, NO_CONVOLUTION)
    for text in ("{", "{}", "[]", '{"pictures": {}}'):
        (run.mistakes / "mistakes.json").write_text(text)
        with pytest.raises(ExperimentError, match=r"mistakes\.json is damaged .*--report true"):
            read_mistakes(run)
