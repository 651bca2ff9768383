"""What was tried with images, archives and weight files, and what comes back: it works, or a word that helps.

The same for YAML stands in test_config.py (``BAD_FILES`` and the tables below it), for a backbone's weight files in
test_pretrained.py. Whatever is generated at random is in test_fuzz.py.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_images import ODD_IMAGES, RED, Files, encoded, load, make, make_tar, make_zip, png, small_set, without, write
from PIL import Image

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.decode import Sizing
from lightning_vgg.images.sources import DataError, load_images, open_image
from lightning_vgg.weights.neutral import check_tensors, read_safetensors, write_neutral

# --- one image --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_IMAGES)
@pytest.mark.parametrize("size", [8, 32])
def test_every_kind_of_image_becomes_rgb(name: str, size: int, tmp_path: Path) -> None:
    contents, top, bottom = ODD_IMAGES[name]
    (tmp_path / name).write_bytes(contents)
    image = open_image(tmp_path / name, Sizing(size))
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image[0, size // 2], top, atol=3)  # JPEG is off by up to 3 here
    np.testing.assert_allclose(image[-1, size // 2], bottom, atol=3)
    np.testing.assert_array_equal(open_image(io.BytesIO(contents), Sizing(size)), image)


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 50,000 pixels wide and high."""
    contents = bytearray(png(0))
    contents[16:24] = struct.pack(">II", 50_000, 50_000)
    contents[29:33] = struct.pack(">I", zlib.crc32(contents[12:29]))
    return bytes(contents)


BAD_IMAGES: dict[str, tuple[bytes, str]] = {  # file name: (contents, reason)
    "text.png": (b"no image", "it is not an image"),
    "empty.png": (b"", "it is not an image"),
    "truncated.png": (encoded(Image.new("RGB", (64, 64), RED), "PNG")[:60], "truncated|broken|not an image"),
    "truncated.jpg": (ODD_IMAGES["turned.JPG"][0][:-200], "Truncated File Read"),
    "float.tif": (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "floating-point"),
    "32_bit.tif": (encoded(Image.fromarray(np.full((2, 2), 1 << 20, np.int32)), "TIFF"), "more than 16 bits"),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "it is not an image"),
    "bomb.png": (bomb(), "decompression bomb"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_an_image_that_cannot_be_decoded_is_named_alone_and_in_a_set(name: str, tmp_path: Path) -> None:
    contents, reason = BAD_IMAGES[name]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataError, match=rf"{name} cannot be read: .*({reason})"):
        open_image(tmp_path / name, Sizing(32))
    root = write(tmp_path / "set", small_set() | {f"train/cat/{name}": contents})
    with pytest.raises(DataError, match=rf"train/cat/{name} cannot be decoded: .*({reason})"):
        load(root)
    images = load_images(
        DataSpec("folder", root=str(root), image_size=4, cache_dir=str(tmp_path / "cache"), on_bad_image="skip")
    )
    assert len(images.train_labels) == 6
    assert [left_out.split(" (")[0] for left_out in images.left_out] == [f"train/cat/{name}"]


def test_a_bomb_that_is_decoded_in_a_thread_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_vgg.images.decode._SMALL", 0)
    with pytest.raises(DataError, match=r"train/cat/bomb\.png cannot be decoded: .*decompression bomb"):
        load(write(tmp_path / "set", small_set() | {"train/cat/bomb.png": bomb()}))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png cannot be read: .*No such file"):
        open_image(tmp_path / "none.png", Sizing(32))


# --- sets of images ---------------------------------------------------------------------------------------------------


BAD_SETS: dict[str, tuple[Files, str]] = {
    "no train": (without("train"), r"no train/ with class folders, only test/\."),
    "no class folders": (
        {"1.png": png(1), "2.png": png(2)},
        r"no image in a class folder.*At its top there is 1\.png, 2\.png\. The layout is train/<cl",
    ),
    "two folders of validation images": (
        small_set() | {"val/cat/1.png": png(1), "valid/dog/1.png": png(1)},
        r"val/ and valid/ both hold validation images",
    ),
    "no images": (
        {"train/cat/notes.txt": b"", "test/cat/Thumbs.db": b""},
        r"only in test/: .*|only in train/: cat|only one class, cat|no image in the class folder",
    ),
    "class in train only": (small_set() | {"train/cow/1.png": png(1)}, r"same class folders; only in train/: cow"),
    "class in test only": (without("train/dog"), r"same class folders; only in test/: dog"),
    "both differ": (without("train/dog", "test/cat"), r"only in train/: cat; only in test/: dog"),
    "empty class": (without("test/dog") | {"test/dog/notes.txt": b""}, r"no image in the class folder test/dog\."),
    "one class": (without("train/dog", "test/dog"), r"only one class, cat; at least two are needed"),
    "no class folder": (small_set() | {"train/loose.png": png(1)}, r"train/loose\.png is not in a class folder"),
    "bad image": (
        small_set() | {"train/dog/bad.jpg": b"?"},
        r"train/dog/bad\.jpg cannot be decoded: it is not an image",
    ),
    "bad images": (
        small_set() | {f"train/dog/bad{i}.jpg": b"?" for i in range(3)},
        r"train/dog/bad0\.jpg cannot be decoded: .* \(3 such files in all\)",
    ),
    "two sets": (
        {f"{top}/{name}": contents for top in ("a", "b") for name, contents in small_set().items()},
        r"several folders contain train/ or test/: a, b",
    ),
}


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.xz"])
@pytest.mark.parametrize("fault", BAD_SETS)
def test_faults_of_a_set_are_named(fault: str, suffix: str, tmp_path: Path) -> None:
    files, message = BAD_SETS[fault]
    path = make(tmp_path / f"set{suffix}", files)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar"])
def test_an_empty_class_folder_is_named(suffix: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", small_set())
    (root / "train" / "cow").mkdir()
    (root / "test" / "cow").mkdir()
    path = Path(shutil.make_archive(str(root), suffix[1:], root)) if suffix else root
    with pytest.raises(DataError, match=r"no image in the class folder test/cow, train/cow\."):
        load(path)


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.xz"])
def test_bad_images_are_left_out_where_that_is_asked_for(
    suffix: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    bad = {"train/dog/cut.png": png(1)[:-30], "test/cat/empty.jpg": b"", "train/cat/text.gif": b"no image"}
    path = make(tmp_path / f"set{suffix}", small_set() | bad)
    clean = load_images(
        DataSpec(
            "folder",
            root=str(make(tmp_path / f"clean{suffix}", small_set())),
            image_size=8,
            cache_dir=str(tmp_path / "cache"),
        )
    )
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        images = load_images(
            DataSpec("folder", root=str(path), image_size=8, cache_dir=str(tmp_path / "cache"), on_bad_image="skip")
        )
        assert images.fingerprint == clean.fingerprint
        assert [name.split(" ")[0] for name in images.left_out] == sorted(bad)
        assert "3 images are left out" in caplog.text and "empty.jpg" in caplog.text
    with pytest.raises(DataError, match=r"3 such files in all.*--data\.on_bad_image skip"):
        load_images(DataSpec("folder", root=str(path), image_size=8, cache_dir=str(tmp_path / "cache")))


def test_a_class_without_a_sound_image_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "set", {**without("test/dog"), "test/dog/bad.png": b""})
    with pytest.raises(DataError, match=r"no image in the class folder test/dog"):
        load_images(
            DataSpec("folder", root=str(path), image_size=8, cache_dir=str(tmp_path / "cache"), on_bad_image="skip")
        )


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def locked(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path.write_bytes(png(1))
    path.chmod(0)


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to nowhere": (link_to("nowhere"), "No such file"),
    "a file that fails when it is read": (link_to("/proc/self/mem"), "Input/output error"),
    "a file of somebody else": (locked, "Permission denied"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named(what: str, tmp_path: Path) -> None:
    make_file, reason = UNREADABLE[what]
    root = write(tmp_path / "set", small_set())
    make_file(root / "train" / "cat" / "odd.png")
    with pytest.raises(DataError, match=rf"cannot be read: .*{reason}") as error:
        load(root)
    assert "train/cat/odd.png" in str(error.value)


def test_what_is_no_file_is_passed_by(tmp_path: Path) -> None:
    """A pipe, which nobody writes to: reading it would wait for ever."""
    root = write(tmp_path / "set", small_set())
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    assert len(load(root).train_labels) == 6


# --- archives ---------------------------------------------------------------------------------------------------------


def test_of_two_members_of_the_same_name_the_later_counts(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set.tar", small_set())
    with tarfile.open(path, "a") as archive:
        for contents in (b"damaged", png(250)):
            info = tarfile.TarInfo("train/cat/0.png")
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    assert load(path).train_images[0, 0, 0, 0] == 250


def link_in_tar(kind: bytes, target: str) -> Callable[[Path], Path]:
    def make_archive(folder: Path) -> Path:
        path = make_tar(folder / "set.tar", small_set())
        with tarfile.open(path, "a") as archive:
            info = tarfile.TarInfo("train/cat/link.png")
            info.type, info.linkname = kind, target
            archive.addfile(info)
        return path

    return make_archive


def link_in_zip(folder: Path) -> Path:
    path = make_zip(folder / "set.zip", small_set())
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("train/cat/link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return path


def encrypted_zip(folder: Path) -> Path:
    path = make_zip(folder / "set.zip", small_set())
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"PK\x01\x02") + 8] |= 1  # the flag in the first entry of the directory
    path.write_bytes(contents)
    return path


def damaged_header(folder: Path) -> Path:
    path = make_tar(folder / "set.tar", small_set())
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2].offset
    contents = bytearray(path.read_bytes())
    contents[third] ^= 1
    path.write_bytes(contents)
    return path


def wrong_checksum(folder: Path) -> Path:
    path = make_tar(folder / "set.tar.gz", small_set())
    contents = path.read_bytes()
    path.write_bytes(contents[:-8] + struct.pack("<I", 1) + contents[-4:])
    return path


def text_as(name: str) -> Callable[[Path], Path]:
    return lambda folder: write(folder, {name: b"hello"}) / name


def with_member(name: str, suffix: str) -> Callable[[Path], Path]:
    return lambda folder: make(folder / f"set{suffix}", {**small_set(), name: png(1)})


BAD_ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    **{
        f"{name} in a {suffix}": (with_member(name, suffix), f"{name} points outside the archive")
        for name in ("/etc/train/cat/x.png", "../train/cat/x.png", "train/cat/../../../x.png")
        for suffix in (".tar", ".zip")
    },
    "symbolic link in a .tar": (link_in_tar(tarfile.SYMTYPE, "/etc/passwd"), r"train/cat/link\.png is a link"),
    "hard link in a .tar": (link_in_tar(tarfile.LNKTYPE, "train/cat/0.png"), r"train/cat/link\.png is a link"),
    "link in a .zip": (link_in_zip, r"train/cat/link\.png is a link"),
    "encrypted .zip": (encrypted_zip, "is encrypted"),
    "damaged header in a .tar": (damaged_header, r"is damaged.*bad checksum at byte \d+ of the \.tar"),
    "wrong checksum at the end of a .gz": (wrong_checksum, "CRC check failed"),
    "text as .txt": (text_as("set.txt"), r"set\.txt is damaged, cut short, or none of \.zip"),
    "text as .zip": (text_as("set.zip"), r"set\.zip is damaged, cut short, or none of \.zip"),
    "text as .tar.gz": (text_as("set.tar.gz"), r"set\.tar\.gz is damaged, cut short, or none of \.zip"),
}


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_an_archive_at_fault_is_named_and_nothing_gets_out_of_it(what: str, tmp_path: Path) -> None:
    make_archive, message = BAD_ARCHIVES[what]
    path = make_archive(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.7])
def test_an_archive_cut_short_is_named(suffix: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    files = {
        f"{split}/{c}/{i}.png": encoded(Image.fromarray(noise[i]), "PNG")
        for split in ("train", "test")
        for c in "ab"
        for i in range(8)
    }
    path = make(tmp_path / f"set{suffix}", files)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    with pytest.raises(DataError, match=r"The archive .*set.* is damaged, cut short"):
        load(path)


@pytest.mark.parametrize("cut", [0, 100, 511])
def test_a_tar_that_ends_between_two_files_is_named(cut: int, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set.tar", small_set())
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[: last + cut])
    with pytest.raises(DataError, match=r"The archive .*set\.tar is damaged, cut short"):
        load(path)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder or archive .*elsewhere"):
        load(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"needs data\.root"):
        load_images(DataSpec("folder", image_size=4, cache_dir=str(tmp_path)))


# --- weight files -----------------------------------------------------------------------------------------------------

SHAPES = {"block1.conv1.weight": (2, 3, 3, 3), "block1.conv1.bias": (2,)}
SOUND = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def with_tensors(**changes: np.ndarray) -> bytes:
    from safetensors.numpy import save

    return save({**SOUND, **{name.replace("__", "."): tensor for name, tensor in changes.items()}})


def check_file(path: Path) -> None:
    check_tensors(str(path), read_safetensors(path, "model.init_from"), SHAPES)


BAD_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "a pickle that runs a program": (pickle.dumps(Evil()), "is not a safetensors file"),
    "text": (b"hello", "is not a safetensors file"),
    "empty": (b"", "is not a safetensors file"),
    "cut short": (with_tensors()[:-8], "is not a safetensors file"),
    "not a number": (
        with_tensors(block1__conv1__bias=np.array([0, np.nan], np.float32)),
        r"block1\.conv1\.bias holds values that are not finite",
    ),
    "another shape": (
        with_tensors(block1__conv1__bias=np.zeros(3, np.float32)),
        r"block1\.conv1\.bias is \(3,\), in the network \(2,\)",
    ),
    "another network": (
        with_tensors(block2__conv1__bias=np.zeros(1)),
        r"block2\.conv1\.bias \(1,\) is not in the netw",
    ),
}


@pytest.mark.parametrize("what", BAD_WEIGHTS)
def test_a_weight_file_at_fault_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents, message = BAD_WEIGHTS[what]
    Path("w.safetensors").write_bytes(contents)
    with pytest.raises(ExperimentError, match=message) as error:
        check_file(Path("w.safetensors"))
    assert "w.safetensors" in str(error.value)
    assert not Path("evil").exists()


def test_a_tensor_that_is_missing_and_a_file_that_is_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ExperimentError, match=r"w\.safetensors: No such file"):
        check_file(path)
    write_neutral(path, {"block1.conv1.weight": SOUND["block1.conv1.weight"]})
    with pytest.raises(ExperimentError, match=r"block1\.conv1\.bias is missing \(the network has \(2,\)\)"):
        check_file(path)
