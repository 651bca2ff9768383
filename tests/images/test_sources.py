"""The data sources: what they give, and what they say about data that is at fault."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from conftest import printed_by
from hypothesis import given
from hypothesis import strategies as st
from made_images import BLUE, ODD_IMAGES, RED, Files, encoded, load, make, png, small_set, write
from PIL import Image

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images import cache, cifar, folder, sources
from lightning_vgg.images.cifar import CIFAR10
from lightning_vgg.images.decode import Sizing
from lightning_vgg.images.sources import (
    DataError,
    ImageSet,
    image_files,
    load_images,
    open_image,
    split_validation,
    stratified_subset,
)


def assert_same(first: ImageSet, second: ImageSet) -> None:
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.class_names == second.class_names
    assert first.fingerprint == second.fingerprint


# --- one image --------------------------------------------------------------------------------------------------------


def test_resizing_is_pillows_bilinear() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(open_image(io.BytesIO(encoded(Image.fromarray(pixels), "PNG")), Sizing(32)), expected)


def test_image_files(tmp_path: Path) -> None:
    names = ["b/2.jpg", "b/1.PNG", "a.webp", ".hidden.png", "__MACOSX/x.png", ".git/x.png", "notes.txt", "scan.pdf"]
    write(tmp_path, dict.fromkeys(names, b""))
    (tmp_path / "empty.png").mkdir()
    found = [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)]
    assert found == ["a.webp", "b/1.PNG", "b/2.jpg"]
    assert image_files(tmp_path / "a.webp") == [tmp_path / "a.webp"]
    with pytest.raises(DataError, match=r"no image below .*empty\.png; .*\.jpg"):
        image_files(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"no file or folder .*elsewhere"):
        image_files(tmp_path / "elsewhere")


def test_image_files_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path, {"real/x.png": b""})
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path)
    found = [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)]
    assert found == ["linked/x.png", "real/x.png"]


# --- folders and archives ---------------------------------------------------------------------------------------------


def odd_set() -> Files:
    odd = {f"train/{label}/{name}": odd[0] for label in ("zebra", "ant") for name, odd in ODD_IMAGES.items()}
    others = [".hidden.png", "__MACOSX/train/ant/._a.png", "train/ant/Thumbs.db", "readme.txt", "val/ant/x.txt"]
    deeper = {"train/ant/deeper/a.png": png(1), "train/ant/deeper.png": png(2)}
    tests = {"test/zebra/t.png": png(9), "test/ant/t.png": png(8)}
    return odd | deeper | tests | dict.fromkeys(others, b"not an image")


def test_folder_arrays(tmp_path: Path) -> None:
    images = load(write(tmp_path / "set", small_set()))
    assert images.class_names == ("cat", "dog")
    assert (images.num_classes, images.image_size) == (2, 4)
    assert images.train_images.shape == (6, 4, 4, 3)
    assert images.train_images.dtype == np.uint8
    assert images.train_labels.dtype == np.int64
    np.testing.assert_array_equal(images.train_images[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
    np.testing.assert_array_equal(images.train_labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(images.test_images[:, 3, 3, 2], [10, 110])
    np.testing.assert_array_equal(images.test_labels, [0, 1])


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("top", ["", "./", "my-images/"])
def test_a_folder_and_its_archives_are_the_same(suffix: str, top: str, tmp_path: Path) -> None:
    files = odd_set()
    from_folder = load(write(tmp_path / "set", files), 16)
    assert len(from_folder.train_labels) == 2 * len(ODD_IMAGES) + 2
    archive = make(tmp_path / f"set{suffix}", {top + name: contents for name, contents in files.items()})
    assert_same(load(archive, 16), from_folder)


def test_archives_with_entries_for_their_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "set", small_set())
    for kind in ("zip", "gztar"):
        archive = shutil.make_archive(str(tmp_path / kind), kind, tmp_path, "set")
        assert_same(load(Path(archive)), load(root))


@pytest.mark.parametrize("big", [False, True])
def test_threads_keep_the_images_in_order(big: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_vgg.images.decode._SMALL", 0 if big else 1 << 20)
    monkeypatch.setattr("lightning_vgg.images.decode._MAX_WAITING", 3)
    files = {f"{split}/{c}/{i:03}.png": png(i) for split in ("train", "test") for c in "ab" for i in range(100)}
    images = load(make(tmp_path / "set.tar", files))
    np.testing.assert_array_equal(images.train_images[:, 0, 0, 0], [*range(100)] * 2)


def test_an_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data source 'cifar'; did you mean 'cifar10'"):
        load_images(DataSpec("cifar", image_size=32, cache_dir=str(tmp_path)))


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def decode_all(*_: object) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(folder, "decode_all", decode_all)


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.xz"])
def test_the_second_time_nothing_is_decoded(suffix: str, no_decoding: Callable[[], None], tmp_path: Path) -> None:
    path = make(tmp_path / f"set{suffix}", small_set())
    first = load(path)
    no_decoding()
    assert_same(load(path), first)
    with pytest.raises(AssertionError, match="decoded again"):
        load(path, image_size=5)


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_changed_files_are_decoded_again(suffix: str, tmp_path: Path) -> None:
    path = make(tmp_path / f"set{suffix}", small_set())
    first = load(path)
    again = load(make(path, small_set() | {"train/cat/0.png": png(250)}))
    assert again.train_images[0, 0, 0, 0] == 250
    assert again.fingerprint != first.fingerprint


def cut_array(entry: Path) -> None:
    path = entry / "pixels"
    path.write_bytes(path.read_bytes()[:-50])


def flip_pixel(entry: Path) -> None:
    path = entry / "pixels"
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


def drop_index(entry: Path) -> None:
    (entry / "index.npz").unlink()


def empty_index(entry: Path) -> None:
    (entry / "index.npz").write_bytes(b"")


def spoil_text(entry: Path) -> None:
    (entry / "about.json").write_text("{")


def drop_key(entry: Path) -> None:
    (entry / "about.json").write_text(json.dumps({"class_names": ["cat", "dog"]}))


@pytest.mark.parametrize("damage", [cut_array, flip_pixel, drop_index, empty_index, spoil_text, drop_key])
def test_a_damaged_cache_is_made_again(
    damage: Callable[[Path], None], no_decoding: Callable[[], None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = make(tmp_path / "set.tar", small_set())
    first = load(path)
    (entry,) = (tmp_path / "cache").iterdir()
    damage(entry)
    assert_same(load(path), first)
    assert f"{entry} are damaged" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == [entry]
    no_decoding()
    assert_same(load(path), first)


def test_a_file_of_the_same_size_that_changed_is_decoded_again(tmp_path: Path) -> None:
    path = write(tmp_path / "set", small_set() | {"train/cat/0.bmp": encoded(Image.new("RGB", (4, 4), RED), "BMP")})
    first = load(path)
    (path / "train/cat/0.bmp").write_bytes(encoded(Image.new("RGB", (4, 4), BLUE), "BMP"))
    os.utime(path / "train/cat/0.bmp", ns=(1, 1))
    assert first.train_images[0, 0, 0].tolist() == [*RED]
    assert load(path).train_images[0, 0, 0].tolist() == [*BLUE]


def test_two_at_the_same_time_both_succeed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    both_are_building = threading.Barrier(2)
    results: list[ImageSet] = []

    def build(images: cache.DecodedImages) -> cache.Index:
        both_are_building.wait(10)
        rows = [images.append(np.full((4, 4, 3), value, np.uint8)) for value in range(3)]
        numbers = {part: np.array([row]) for part, row in zip(cache.PARTS, rows, strict=True)}
        return cache.Index(numbers, dict.fromkeys(cache.PARTS, np.array([0])), ("cat", "dog"))

    def remember(build: Callable[[cache.DecodedImages], cache.Index]) -> ImageSet:
        return cache.remember(tmp_path / "shared", "key", 4, None, build)

    threads = [threading.Thread(target=lambda: results.append(remember(build))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(*results)
    assert caplog.text == ""
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["images-key"]
    assert_same(remember(pytest.fail), results[0])


@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
def test_a_disk_that_fills_up_costs_a_warning_only(
    suffix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = make(tmp_path / f"set{suffix}", small_set())
    images = load(path)
    shutil.rmtree(tmp_path / "cache")
    append = cache.DecodedImages.append

    def full(decoded: cache.DecodedImages, image: np.ndarray) -> int:
        if decoded.count == 3 and not isinstance(decoded._file, io.BytesIO):
            raise cache._NotWritten("No space left on device")
        return append(decoded, image)

    monkeypatch.setattr(cache.DecodedImages, "append", full)
    assert_same(load(path), images)
    assert "cannot be kept in" in caplog.text
    assert "No space left" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_costs_a_warning_only(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(load(write(tmp_path / "set", small_set())).train_labels) == 6
    assert "cannot be kept in" in caplog.text


def test_the_default_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder(None) == Path("/somewhere/lightning-vgg")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.cache_folder(None) == Path.home() / ".cache/lightning-vgg"
    assert cache.cache_folder("~/mine") == Path.home() / "mine"


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    images = load_images(DataSpec("digits", image_size=8, cache_dir=str(tmp_path)))
    assert images.train_images.shape == (1437, 8, 8, 3)
    assert images.test_images.shape == (360, 8, 8, 3)
    assert images.class_names == tuple("0123456789")
    scans, labels = load_digits(return_X_y=True)
    ours = np.concatenate([images.train_images, images.test_images])
    assert (ours == ours[..., :1]).all()
    assert (ours.min(), ours.max()) == (0, 255)
    both = np.concatenate([images.train_labels, images.test_labels])
    expected = Counter(zip((scans * 255 / 16).round().astype(np.uint8).sum(1).tolist(), labels.tolist(), strict=True))
    assert Counter(zip(ours[..., 0].sum((1, 2)).tolist(), both.tolist(), strict=True)) == expected
    shares = np.bincount(images.test_labels) - 360 * np.bincount(labels) / len(labels)
    assert abs(shares).max() < 1
    assert load_images(DataSpec("digits", image_size=32, cache_dir=str(tmp_path))).train_images.shape == (
        1437,
        32,
        32,
        3,
    )
    assert_same(load_images(DataSpec("digits", image_size=8, cache_dir=str(tmp_path))), images)


def test_digits_take_no_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reads no files, but data\.root is here"):
        load_images(DataSpec("digits", root="here", image_size=8, cache_dir=str(tmp_path)))


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

LABEL_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as the strings of Python 2, of which the official files are made."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(thing: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(thing)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class Cifar:
    """A tiny CIFAR-10 in the official format: 4 images in each training file, 6 in the test file."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = {name: rng.integers(0, 256, (4, 3072), np.uint8) for name in CIFAR10.train_files}
        self.pixels["test_batch"] = rng.integers(0, 256, (6, 3072), np.uint8)
        self.labels = {name: rng.integers(0, 10, len(data)).tolist() for name, data in self.pixels.items()}
        self.files = {
            name: python2_pickle({"batch_label": name, "labels": self.labels[name], "data": data, "filenames": []})
            for name, data in self.pixels.items()
        }
        self.files["batches.meta"] = python2_pickle({"num_vis": 3072, "label_names": LABEL_NAMES})
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, contents in [*self.files.items(), ("readme.html", b"<html>")]:
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
        self.archive = file.getvalue()

    def publish(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """Make it the official one."""
        md5s = {name: hashlib.md5(contents).hexdigest() for name, contents in self.files.items()}
        official = replace(CIFAR10, url=url, md5=hashlib.md5(self.archive).hexdigest(), file_md5s=md5s)
        monkeypatch.setitem(sources.SOURCES, "cifar10", partial(cifar.load_cifar, official))

    def check(self, images: ImageSet) -> None:
        assert images.class_names == tuple(LABEL_NAMES)
        assert images.train_images.shape == (20, 32, 32, 3)
        assert images.test_images.shape == (6, 32, 32, 3)
        assert images.train_images.flags.c_contiguous
        second = self.pixels["data_batch_2"]
        for channel in range(3):  # the fourth image of the second file, row by row
            plane = second[3, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
            np.testing.assert_array_equal(images.train_images[7, :, :, channel], plane)
        assert images.train_labels.tolist() == [x for name in CIFAR10.train_files for x in self.labels[name]]
        assert images.test_labels.tolist() == self.labels["test_batch"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Cifar:
    tiny = Cifar()
    tiny.publish(monkeypatch, "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody listens there
    monkeypatch.setenv("no_proxy", "*")
    return tiny


def load_cifar(root: Path | str | None, tmp_path: Path, image_size: int = 32) -> ImageSet:
    return load_images(
        DataSpec(
            "cifar10",
            root=root if root is None else str(root),
            image_size=image_size,
            cache_dir=str(tmp_path / "cache"),
        )
    )


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_the_checksums_are_the_official_ones(name: str) -> None:
    ours, theirs = getattr(cifar, name), getattr(torchvision.datasets, name)
    assert (theirs.url, theirs.filename, theirs.tgz_md5) == (ours.url, ours.archive, ours.md5)
    official = dict([*theirs.train_list, *theirs.test_list, [theirs.meta["filename"], theirs.meta["md5"]]])
    assert official == ours.file_md5s
    assert [name for name, _ in theirs.train_list] == list(ours.train_files)
    assert theirs.base_folder == ours.folder


@pytest.mark.parametrize(
    ("source", "names", "labels"),
    [("cifar100", ["apple", "bee", "cup"], [0, 2, 1]), ("cifar100_coarse", ["fruit", "x"], [0, 0, 1])],
)
def test_cifar100_has_fine_and_coarse_classes(
    source: str, names: list[str], labels: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    part = python2_pickle({"data": pixels, "fine_labels": [0, 2, 1], "coarse_labels": [0, 0, 1]})
    meta = python2_pickle({"fine_label_names": ["apple", "bee", "cup"], "coarse_label_names": ["fruit", "x"]})
    files = {"train": part, "test": part, "meta": meta}
    write(tmp_path / "cifar-100-python", files)
    md5s = {name: hashlib.md5(contents).hexdigest() for name, contents in files.items()}
    known: Any = sources.SOURCES[source]
    monkeypatch.setitem(sources.SOURCES, source, partial(cifar.load_cifar, replace(*known.args, file_md5s=md5s)))
    images = load_images(DataSpec(source, root=str(tmp_path), image_size=32, cache_dir=str(tmp_path / "cache")))
    assert images.class_names == tuple(names) and images.test_labels.tolist() == labels
    np.testing.assert_array_equal(images.train_images[1, :, :, 2].ravel(), pixels[1, 2048:])


@pytest.mark.parametrize("place", ["folder", "folder itself", "archive", "archive itself", "cache"])
def test_cifar10_is_found(place: str, tiny: Cifar, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if place.startswith("folder"):
        write(root / "cifar-10-batches-py", tiny.files)
    else:
        write(root, {"cifar-10-python.tar.gz": tiny.archive, "renamed.tar.gz": tiny.archive})
    at: dict[str, Path | None] = {
        "folder": root,
        "folder itself": root / "cifar-10-batches-py",
        "archive": root,
        "archive itself": root / "renamed.tar.gz",
        "cache": None,
    }
    if place == "cache":
        root.rename(tmp_path / "tmp")
        write(tmp_path / "cache/cifar10", {"cifar-10-python.tar.gz": tiny.archive})
    tiny.check(load_cifar(at[place], tmp_path))


def test_cifar10_is_resized(tiny: Cifar, tmp_path: Path) -> None:
    write(tmp_path, {"cifar-10-python.tar.gz": tiny.archive})
    small, large = load_cifar(tmp_path, tmp_path), load_cifar(tmp_path, tmp_path, 48)
    expected = Image.fromarray(small.test_images[5]).resize((48, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(large.test_images[5], np.asarray(expected))
    assert large.train_images.shape == (20, 48, 48, 3)
    assert large.fingerprint != small.fingerprint


def test_a_damaged_cifar10_file_is_named_and_left_alone(tiny: Cifar, tmp_path: Path) -> None:
    damaged = {"cifar-10-python.tar.gz": tiny.archive[:-10]}
    write(tmp_path, damaged)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is cut short, damaged .*official MD5.*fresh copy"):
        load_cifar(tmp_path, tmp_path)
    assert (tmp_path / "cifar-10-python.tar.gz").read_bytes() == tiny.archive[:-10]
    batches = write(tmp_path / "cifar-10-batches-py", tiny.files | {"data_batch_3": b"?"})
    with pytest.raises(DataError, match=r"data_batch_3 is cut short, damaged"):
        load_cifar(tmp_path, tmp_path)
    (batches / "test_batch").unlink()
    with pytest.raises(DataError, match=r"cifar-10-batches-py lacks test_batch"):
        load_cifar(tmp_path, tmp_path)


def test_cifar10_that_is_not_there(tiny: Cifar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"which holds no cifar-10-batches-py/ or cifar-10-python\.tar\.gz"):
        load_cifar(tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"elsewhere, which does not exist"):
        load_cifar(tmp_path / "elsewhere", tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo evil",)


@pytest.mark.parametrize("evil", [Evil(), print, Path("x"), np.array([Evil()], dtype=object)])
def test_pickles_get_no_other_globals(evil: object) -> None:
    with pytest.raises(DataError, match=r"asks for .*, which no official file does"):
        cifar.unpickle(python2_pickle({"data": evil}))


# --- downloads --------------------------------------------------------------------------------------------------------


class Mirror:
    """A web server on this machine that serves CIFAR-10 well, or not."""

    def __init__(self, archive: bytes) -> None:
        self.requests: list[str] = []
        self.ranges: list[str | None] = []
        self.logins: list[str | None] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                mirror.ranges.append(self.headers["Range"])
                mirror.logins.append(self.headers["Authorization"])
                kind, _, name = self.path[1:].partition("/")
                if kind == "busy" or name not in ("cifar-10-python.tar.gz", "renamed.tgz?v=1"):
                    self.send_error(503 if kind == "busy" else 404)
                    return
                first = int(self.headers["Range"][len("bytes=") : -1]) if self.headers["Range"] else 0
                if kind == "ranges" and first:
                    self.send_response(206 if first < len(archive) else 416)
                    self.send_header("Content-Length", str(max(0, len(archive) - first)))
                    self.end_headers()
                    self.wfile.write(archive[first:])
                    return
                half = archive[: len(archive) // 2]
                body = {"wrong": b"<html>", "short": half, "ranges": half}.get(kind, archive)
                self.send_response(200)
                if kind != "unsized":
                    self.send_header("Content-Length", str(len(body) if kind == "wrong" else len(archive)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def mirror(tiny: Cifar) -> Iterator[Mirror]:
    mirror = Mirror(tiny.archive)
    thread = threading.Thread(target=mirror.server.serve_forever)
    thread.start()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    thread.join()


GOOD = ["good", "good/", "good/cifar-10-python.tar.gz", "good/renamed.tgz?v=1", "unsized"]


@pytest.mark.parametrize("place", GOOD)
def test_a_download_is_kept(place: str, tiny: Cifar, mirror: Mirror, tmp_path: Path) -> None:
    tiny.check(load_cifar(f"{mirror.address}/{place}", tmp_path))
    assert (tmp_path / "cache/cifar10/cifar-10-python.tar.gz").read_bytes() == tiny.archive
    assert len(list((tmp_path / "cache/cifar10").iterdir())) == 1
    tiny.check(load_cifar(f"{mirror.address}/{place}", tmp_path))
    tiny.check(load_cifar(None, tmp_path))
    assert len(mirror.requests) == 1


def test_the_official_address_is_the_default(
    tiny: Cifar, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny.publish(monkeypatch, f"{mirror.address}/good/cifar-10-python.tar.gz")
    tiny.check(load_cifar(None, tmp_path))
    assert mirror.requests == ["/good/cifar-10-python.tar.gz"]


def test_a_damaged_download_is_named_and_fetched_again(
    tiny: Cifar, mirror: Mirror, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    kept = tmp_path / "cache/cifar10/cifar-10-python.tar.gz"
    write(kept.parent, {kept.name: tiny.archive[:100]})
    tiny.check(load_cifar(f"{mirror.address}/good", tmp_path))
    assert f"{kept} is damaged (100 bytes); it is fetched again" in caplog.text
    assert kept.read_bytes() == tiny.archive


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("busy", "HTTP Error 503: Service Unavailable"),
        ("good/nothing.tar.gz", "HTTP Error 404: Not Found"),
        ("short", r"the connection ended after [\d,]+ of [\d,]+ bytes"),
        ("wrong", r"what came \(6 bytes\) has MD5 .*, not "),
    ],
)
def test_a_failed_download_says_what_to_do(place: str, reason: str, mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason) as error:
        load_cifar(f"{mirror.address}/{place}", tmp_path)
    message = str(error.value)
    assert f"{mirror.address}/{place}" in message
    assert f"Put cifar-10-python.tar.gz at {tmp_path / 'cache/cifar10/cifar-10-python.tar.gz'}" in message
    assert "--data.root FOLDER_OR_MIRROR" in message
    assert "--data.source digits" in message
    assert ("What has arrived is kept" in message) == (place == "short")
    kept = ["cifar-10-python.tar.gz.part"] if place == "short" else []
    assert [path.name for path in (tmp_path / "cache/cifar10").iterdir()] == kept


def test_an_interrupted_download_goes_on_where_it_was(tiny: Cifar, mirror: Mirror, tmp_path: Path) -> None:
    """The first half comes at the first request."""
    half = len(tiny.archive) // 2
    with pytest.raises(DataError, match=rf"connection ended after {half:,} of .*the same command continues"):
        load_cifar(f"{mirror.address}/ranges", tmp_path)
    tiny.check(load_cifar(f"{mirror.address}/ranges", tmp_path))
    assert mirror.ranges == [None, f"bytes={half}-"]
    assert [path.name for path in (tmp_path / "cache/cifar10").iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize(
    ("place", "left", "requests"),
    [
        ("good", lambda archive: archive[:100], 1),  # the server knows no ranges
        ("ranges", lambda archive: archive, 1),  # killed before it was moved into place
        ("good", lambda archive: b"?" * 100, 1),
        ("ranges", lambda archive: archive[:-1] + b"?", 2),
    ],
)
def test_what_an_earlier_download_left_is_completed_or_fetched_again(
    place: str, left: Callable[[bytes], bytes], requests: int, tiny: Cifar, mirror: Mirror, tmp_path: Path
) -> None:
    part = tmp_path / "cache/cifar10/cifar-10-python.tar.gz.part"
    write(part.parent, {part.name: left(tiny.archive)})
    if requests == 1:
        tiny.check(load_cifar(f"{mirror.address}/{place}", tmp_path))
    else:  # from the beginning, of which this server sends the first half
        with pytest.raises(DataError, match="connection ended after"):
            load_cifar(f"{mirror.address}/{place}", tmp_path)
        assert tiny.archive.startswith(part.read_bytes())
    assert len(mirror.requests) == requests


def test_two_at_the_same_time_fetch_once(tiny: Cifar, mirror: Mirror, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for images in pool.map(lambda _: load_cifar(f"{mirror.address}/good", tmp_path), range(2)):
            tiny.check(images)
    assert len(mirror.requests) == 1


def test_a_password_goes_to_its_mirror_and_into_no_message(tiny: Cifar, mirror: Mirror, tmp_path: Path) -> None:
    address = mirror.address.replace("//", "//reader:p%40ss@")
    with pytest.raises(DataError) as error:
        load_cifar(f"{address}/busy?token=p@ss", tmp_path)
    assert f"cannot be downloaded from {mirror.address}/busy" in str(error.value)
    assert "reader" not in str(error.value) and "ss@" not in str(error.value) and "token" not in str(error.value)
    tiny.check(load_cifar(f"{address}/good", tmp_path))
    assert mirror.logins == [f"Basic {base64.b64encode(b'reader:p@ss').decode()}"] * 2


def test_no_network(tiny: Cifar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be downloaded from http://127\.0\.0\.1:9/.*refused.*--data\.root"):
        load_cifar(None, tmp_path)


# --- splits -----------------------------------------------------------------------------------------------------------

label_lists = st.lists(st.integers(0, 6), max_size=80)


@given(label_lists, st.floats(0, 1, exclude_max=True), st.integers(0, 5))
def test_split_validation(labels: list[int], fraction: float, seed: int) -> None:
    train, validation = split_validation(labels, fraction, seed)
    assert train.dtype == validation.dtype == np.int64
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(validation) == sorted(validation)
    given_away = Counter(labels[i] for i in validation)
    for label, size in Counter(labels).items():
        expected = min(max(round(size * fraction), fraction > 0), size - 1)
        assert given_away[label] == expected
    again = split_validation(np.array(labels), fraction, seed)
    np.testing.assert_array_equal(again[1], validation)


@given(label_lists, st.data(), st.integers(0, 5))
def test_stratified_subset(labels: list[int], data: st.DataObject, seed: int) -> None:
    sizes = Counter(labels)
    count = data.draw(st.integers(len(sizes), len(labels)))
    chosen = stratified_subset(labels, count, seed)
    assert chosen.dtype == np.int64
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == count
    shares = Counter(labels[i] for i in chosen)
    assert set(shares) == set(sizes)
    quotas = {label: count * size / len(labels) for label, size in sizes.items()}
    if all(quota >= 1 for quota in quotas.values()):  # else rare classes take more than their quota
        assert all(abs(shares[label] - quota) < 1 for label, quota in quotas.items())
    np.testing.assert_array_equal(stratified_subset(np.array(labels), count, seed), chosen)


def test_splits_depend_on_the_seed_and_not_on_the_order_of_classes() -> None:
    labels = np.repeat(np.arange(10), 50)
    first, second = split_validation(labels, 0.2, 0)[1], split_validation(labels, 0.2, 1)[1]
    assert not np.array_equal(first, second)
    assert not np.array_equal(stratified_subset(labels, 100, 0), stratified_subset(labels, 100, 1))
    assert np.bincount(labels[first]).tolist() == [10] * 10


def test_largest_remainder() -> None:
    labels = [0] * 50 + [1] * 30 + [2] * 20  # quotas of 7 images: 3.5, 2.1, 1.4
    assert np.bincount(np.array(labels)[stratified_subset(labels, 7)]).tolist() == [4, 2, 1]
    labels = [0] * 98 + [1, 2]
    assert np.bincount(np.array(labels)[stratified_subset(labels, 10)]).tolist() == [8, 1, 1]


def test_wrong_fractions_and_counts() -> None:
    for fraction in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(DataError, match="validation fraction is"):
            split_validation([0, 1], fraction)
    with pytest.raises(DataError, match="subset of 5 images was requested, but there are only 4"):
        stratified_subset([0, 0, 1, 1], 5)
    with pytest.raises(DataError, match="subset of 1 images is too small: there are 2 classes"):
        stratified_subset([0, 0, 1, 1], 1)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from lightning_vgg.images import sources; "
        "print({'torch', 'tensorflow', 'keras', 'sklearn', 'tqdm'} & set(sys.modules))"
    )
    assert printed_by(code) == "set()\n"


@pytest.mark.slow
@pytest.mark.skipif(
    "LIGHTNING_VGG_TEST_DATA" not in os.environ,
    reason="LIGHTNING_VGG_TEST_DATA does not name a folder with data/cifar10-jpeg.tar.xz",
)
def test_sixty_thousand_real_images() -> None:
    archive = Path(os.environ["LIGHTNING_VGG_TEST_DATA"], "data", "cifar10-jpeg.tar.xz")
    images = load_images(DataSpec("folder", root=str(archive)))
    assert images.class_names == tuple(LABEL_NAMES)
    assert images.train_images.shape == (50_000, 32, 32, 3)
    assert images.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(images.train_labels).tolist() == [5_000] * 10
    assert np.bincount(images.test_labels).tolist() == [1_000] * 10
    assert images.train_images.mean((0, 1, 2)) == pytest.approx([125.3, 123.0, 113.9], abs=1)  # as published
    with tarfile.open(archive, "r|*") as members:
        for member in members:
            if member.name == "train/airplane/0000.jpg":
                file = members.extractfile(member)
                assert file is not None
                np.testing.assert_array_equal(images.train_images[0], open_image(io.BytesIO(file.read()), Sizing(32)))
                break
        else:
            pytest.fail("train/airplane/0000.jpg is not in the archive")
