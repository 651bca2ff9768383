"""Folders and tables as people have them: which images become which part, and what is said of the rest."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from made_images import encoded, load, make, png, small_set, without, write
from PIL import Image

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.dataset import load_dataset
from lightning_vgg.images.layout import Place, arrange, hold_out
from lightning_vgg.images.sources import DataError


def shades(images: np.ndarray) -> list[int]:
    """What tells the images of `made_images` apart."""
    return images[:, 0, 0, 0].tolist()


def many(count: int = 40) -> dict[str, bytes]:
    """Two classes, without any parts."""
    return {f"{label}/{i}.png": png(100 * (label == "dog") + i) for label in ("cat", "dog") for i in range(count)}


def data(root: Path, **settings: object) -> DataSpec:
    return DataSpec("folder", str(root), image_size=4, cache_dir=str(root.parent / "cache"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.xz"])
@pytest.mark.parametrize("top", ["", "photos/"])
def test_own_validation_images_are_used(name: str, suffix: str, top: str, tmp_path: Path) -> None:
    files = small_set() | {f"{name}/cat/9.png": png(50), f"{name}/dog/9.png": png(150)}
    root = make(tmp_path / f"set{suffix}", {top + file: contents for file, contents in files.items()})
    found = load_dataset(data(root))
    assert shades(found.val.images) == [50, 150] and found.val.labels.tolist() == [0, 1]
    assert len(found.train.labels) == 6  # none of them is held out
    assert load_dataset(data(root)).fingerprint == found.fingerprint
    assert load(make(tmp_path / f"other{suffix}", small_set())).fingerprint != found.fingerprint


@pytest.mark.parametrize("suffix", ["", ".tar"])
@pytest.mark.parametrize("top", ["", "photos/", "train/"])
def test_without_a_test_some_images_become_one(
    suffix: str, top: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path / f"set{suffix}", {top + file: contents for file, contents in many().items()})
    with caplog.at_level(logging.WARNING):
        found = load_dataset(data(root, test_fraction=0.25, validation_fraction=0.0))
    test, train = shades(found.test.images), shades(found.train.images)
    assert sorted(test + train) == [*range(40), *range(100, 140)]
    assert 10 <= len(test) <= 30 and set(found.test.labels) == {0, 1}
    assert f"there is no test/: {len(test)} of 80 images are the test (data.test_fraction)" in caplog.text
    assert found.describe()["images_remarks"] == [
        f"there is no test/: {len(test)} of 80 images are the test (data.test_fraction)"
    ]


def test_further_images_move_none(tmp_path: Path) -> None:
    few = load_dataset(data(write(tmp_path / "few", many(20))))
    more = load_dataset(data(write(tmp_path / "more", many(40))))
    old = {shade for shade in shades(more.test.images) if shade % 100 < 20}
    assert old == set(shades(few.test.images))


def test_every_class_is_tested_and_trained_on() -> None:
    places = {("cat", f"{i}.png"): Place("train", "cat", (f"{i}.png",)) for i in range(2)}
    for fraction in (1e-9, 1 - 1e-9):
        assert sorted(place.split for place in hold_out(places, fraction).values()) == ["test", "train"]


def test_a_table_names_the_images(tmp_path: Path) -> None:
    write(tmp_path, {f"images/{i}.png": png(10 * i) for i in range(6)} | {"images/unused.png": png(99)})
    lines = ["path,label,split"] + [
        f"images/{i}.png,{'ab'[i % 2]},{split}" for i, split in enumerate(["train"] * 2 + ["val"] * 2 + ["test"] * 2)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    found = load_dataset(data(tmp_path / "labels.csv"))
    assert [shades(part.images) for part in found.parts.values()] == [[0, 10], [20, 30], [40, 50]]
    assert found.class_names == ("a", "b")
    (tmp_path / "labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    found = load_dataset(data(tmp_path / "labels.csv", validation_fraction=0))
    assert len(found.train.labels) + len(found.test.labels) == 6 and len(found.test.labels) >= 2


BAD_TABLES = {
    "file,label\n1.png,a\n": "no column path",
    "path,label\n": "has no row",
    "path,label\n1.png,\n": "line 2: path must lie below",
    "path,label\n../1.png,a\n": "line 2: path must lie below",
    "path,label\n1.png,a\n9.png,b\n": r"line 3: there is no file .*9\.png",
    "path,label\n1.png,a\n1.png,b\n": "line 3: 1.png is in the table already",
    "path,label,split\n1.png,a,testing\n": "line 2: split is 'testing'",
    "path,label\n1.png,a\n2.png,a\n": "only one class, a",
    "path,label,split\n1.png,a,train\n2.png,b,train\n3.png,a,test\n": "only in train/: b",
}


@pytest.mark.parametrize("table", BAD_TABLES)
def test_what_is_wrong_with_a_table_is_named(table: str, tmp_path: Path) -> None:
    write(tmp_path, {f"{i}.png": png(i) for i in (1, 2, 3)})
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=BAD_TABLES[table]):
        load_dataset(data(tmp_path / "labels.csv"))


def test_what_is_not_used_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = {
        "train/cat/notes.txt": b"",
        "train/cat/Thumbs.db": b"\xd0\xcf",
        "train/.ipynb_checkpoints/1.png": png(1),
        "loose.png": png(1),
        "extra/cat/1.png": png(1),
        "broken.jpg": b"?",
    }
    root = write(tmp_path / "set", small_set() | extra)
    with caplog.at_level(logging.WARNING):
        found = load(root)
    assert len(found.train_labels) == 6
    assert "5 files are not used: broken.jpg; extra/cat/1.png; loose.png and 2 more" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(root)  # from the cache
    assert "5 files are not used" in caplog.text


@pytest.mark.parametrize("name", ["without_suffix", "photo.jpg_large", "photo.jpg.1"])
def test_an_image_under_an_odd_name_is_used(name: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", small_set() | {f"train/cat/{name}": png(60)})
    assert 60 in shades(load(root).train_images)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("IMG_1.HEIC", "pip install pillow-heif"), ("IMG_1.CR2", "camera's raw file"), ("a.svg", "PNG")],
)
def test_an_image_that_cannot_be_read_stops_with_the_remedy(name: str, remedy: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", small_set() | {f"train/cat/{name}": b"ftypheic"})
    with pytest.raises(DataError, match=rf"train/cat/{name} cannot be decoded: .*{remedy}"):
        load(root)
    found = load_dataset(data(root, on_bad_image="skip"))
    assert found.left_out[0].startswith(f"train/cat/{name} (")


def test_the_same_image_in_two_parts_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_jpeg_elsewhere = encoded(Image.new("L", (4, 4), 10), "BMP")
    root = write(tmp_path / "set", small_set() | {"train/dog/copy.bmp": as_jpeg_elsewhere})
    with caplog.at_level(logging.WARNING):
        load(root)
    assert "1 images are in two parts, so the results are too good: test/cat/0.png = train/dog/copy.bmp" in caplog.text


def test_a_class_that_loses_all_its_images_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", without("test/dog") | {"test/dog/1.png": b"?"})
    with pytest.raises(DataError, match="no image in the class folder test/dog"):
        load_dataset(data(root, on_bad_image="skip"))


def test_fractions_are_bounded() -> None:
    with pytest.raises(ExperimentError, match=r"data.test_fraction lies in \(0, 1\)"):
        DataSpec(test_fraction=0.0)


def test_a_place_says_what_it_is() -> None:
    files = [("photos", "cat", "a", "1.png"), ("photos", "dog", "1.png")]
    folders = [("photos",), ("photos", "cat"), ("photos", "cat", "a"), ("photos", "dog")]
    assert arrange("x", files, folders) == {
        files[0]: Place("train", "cat", ("a", "1.png")),
        files[1]: Place("train", "dog", ("1.png",)),
    }
