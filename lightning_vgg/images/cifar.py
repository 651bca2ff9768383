"""CIFAR-10 and CIFAR-100 from their official "python version": a folder, the archive, or a download of it.

The official MD5 checksums are enforced, so whatever is loaded is the data set to the last bit. Nothing is kept
decoded: reading the archive takes about two seconds.
"""

from __future__ import annotations

import base64
import hashlib
import http
import http.client
import io
import logging
import os
import pickle
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np
from PIL import Image

from lightning_vgg.common.addresses import is_address, without_secrets
from lightning_vgg.common.locks import file_lock
from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.decode import Sizing, resize
from lightning_vgg.images.imageset import DataError, ImageSet, Labels, error_text, make_image_set
from lightning_vgg.images.stored import Pixels


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets, as it is published.

    Attributes:
        name: in messages.
        url, archive, md5: of the archive.
        folder: that it unpacks to.
        train_files, test_files, names_file: in it.
        file_md5s: of these.
        names_key: where the names file has the names of the classes.
        labels_key: where the others have the labels.
    """

    name: str
    url: str
    archive: str
    md5: str
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    names_file: str
    file_md5s: Mapping[str, str]
    names_key: str = "label_names"
    labels_key: str = "labels"


CIFAR10 = Cifar(
    "CIFAR-10",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py",
    ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    ("test_batch",),
    "batches.meta",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
CIFAR100 = Cifar(
    "CIFAR-100",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python",
    ("train",),
    ("test",),
    "meta",
    {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    "fine_label_names",
    "fine_labels",
)
CIFAR100_COARSE = replace(CIFAR100, names_key="coarse_label_names", labels_key="coarse_labels")
"""The same images with 20 classes instead of 100."""
TIMEOUT = 20.0  # seconds without an answer; there is no second try, a repeat of the command goes on

_log = logging.getLogger(__name__)


def load_cifar(cifar: Cifar, spec: DataSpec, sizing: Sizing, cache: Path) -> ImageSet:
    """50,000 training and 10,000 test images, resized where another size is wanted.

    `spec.root` is a folder with the official folder (`cifar-10-batches-py/`) or archive, the archive itself, or the
    http(s) address of a mirror (of its folder or of the file), perhaps with `user:password@`. None is the official
    address; downloads are kept in `cache`.

    Raises DataError when a file is missing or damaged, or cannot be downloaded.
    """
    files = _official_files(cifar, spec.root, cache / cifar.name.replace("-", "").lower())
    return make_image_set(
        _batches(cifar, files, cifar.train_files, sizing),
        _batches(cifar, files, cifar.test_files, sizing),
        unpickle(files[cifar.names_file])[cifar.names_key],
    )


def _official_files(cifar: Cifar, root: str | None, downloads: Path) -> dict[str, bytes]:
    """Contents of the files of the data set by name, checksums verified."""
    if root is None or is_address(root):
        return _unpacked(_downloaded(cifar, root or cifar.url, downloads / cifar.archive))
    path = Path(root).expanduser()
    if path.is_file():
        return _unpacked(_verified(cifar, path, cifar.md5))
    for folder in (path / cifar.folder, path):
        if folder.is_dir() and folder.name == cifar.folder:
            return _from_folder(cifar, folder)
    if (path / cifar.archive).is_file():
        return _unpacked(_verified(cifar, path / cifar.archive, cifar.md5))
    there = "which holds no" if path.is_dir() else "which does not exist; it should hold"
    raise DataError(
        f"{cifar.name}: data.root is {path}, {there} {cifar.folder}/ or {cifar.archive}. Get it from {cifar.url}."
    )


def _from_folder(cifar: Cifar, folder: Path) -> dict[str, bytes]:
    missing = [name for name in cifar.file_md5s if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{cifar.name}: {folder} lacks {', '.join(missing)}. Unpack {cifar.archive} ({cifar.url}) again."
        )
    return {name: _verified(cifar, folder / name, md5) for name, md5 in cifar.file_md5s.items()}


def _verified(cifar: Cifar, path: Path, md5: str) -> bytes:
    """The contents of a user's own file; one that is not the official one is named, never touched."""
    contents = path.read_bytes()
    if _md5(contents) != md5:
        raise DataError(
            f"{cifar.name}: {path} is cut short, damaged or not the official file ({len(contents):,} bytes, MD5 "
            f"{_md5(contents)}, official MD5 {md5}). Get a fresh copy from {cifar.url}."
        )
    return contents


def _unpacked(archive: bytes) -> dict[str, bytes]:
    """The files straight from the archive: nothing is extracted to disk."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for member in members:
            file = members.extractfile(member)
            if file is not None:
                files[Path(member.name).name] = file.read()
    return files


def _md5(contents: bytes) -> str:
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()


# --- download -----------------------------------------------------------------------------------------------


def _downloaded(cifar: Cifar, address: str, path: Path) -> bytes:
    """The archive's contents from `path`, where it is fetched first if it is missing or damaged.

    Processes that want it at the same time fetch it one after the other, so all but the first find it.
    """
    try:
        if (contents := _whole(cifar, path)) is not None:  # no lock: a cache that can only be read will do
            return contents
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.parent.with_name(f".{path.parent.name}.lock")):
            if (contents := _whole(cifar, path)) is not None:
                return contents
            if path.is_file():
                size = path.stat().st_size
                _log.warning("%s: %s is damaged (%d bytes); it is fetched again.", cifar.name, path, size)
            return _fetch(cifar, _file_address(cifar, address), path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        kept = "What has arrived is kept; the same command continues from there. " if _part(path).exists() else ""
        raise DataError(
            f"{cifar.name} cannot be downloaded from {without_secrets(_file_address(cifar, address))}: "
            f"{error_text(error)}. {kept}Put {cifar.archive} at {path}; or name a folder that holds it, or a mirror's "
            "address, with --data.root FOLDER_OR_MIRROR; or use another source: --data.source digits (no download) or "
            "--data.source folder (your own images)."
        ) from error


def _whole(cifar: Cifar, path: Path) -> bytes | None:
    """The archive's contents; None where it is missing or damaged."""
    contents = path.read_bytes() if path.is_file() else b""
    return contents if _md5(contents) == cifar.md5 else None


def _file_address(cifar: Cifar, address: str) -> str:
    """Of the archive, where `address` is that of its folder."""
    parts = urlsplit(address)
    whole = parts.path.endswith((".tar.gz", ".tgz"))
    return address if whole else urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{cifar.archive}"))


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _fetch(cifar: Cifar, url: str, path: Path) -> bytes:
    """Download to `path` by way of a .part file: nobody ever sees half an archive there, and a download that was
    interrupted goes on.
    """
    part = _part(path)
    resumed = part.exists()
    _complete(cifar, url, part)
    contents = part.read_bytes()
    if _md5(contents) == cifar.md5:
        os.replace(part, path)
        return contents
    part.unlink()
    if resumed:
        _log.warning("%s: the rest of an interrupted download is damaged; all of it is fetched again.", cifar.name)
        return _fetch(cifar, url, path)
    raise ValueError(f"what came ({len(contents):,} bytes) has MD5 {_md5(contents)}, not {cifar.md5}")


def _complete(cifar: Cifar, url: str, part: Path) -> None:
    """Append to the file what it lacks; a server that knows no ranges sends all of it again."""
    done = part.stat().st_size if part.exists() else 0
    request = _request(url)
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is lacking
            error.close()
            return
        raise
    with response, part.open("ab") as file:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
            file.truncate(0)
        length = response.headers["Content-Length"]
        _copy(cifar.archive, response, file, done, None if length is None else done + int(length))


def _request(url: str) -> urllib.request.Request:
    """urllib sends no password that stands in an address by itself."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    if login:
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(unquote(login).encode()).decode()}")
    return request


def _copy(name: str, response: IO[bytes], part: IO[bytes], done: int, size: int | None) -> None:
    from tqdm import tqdm

    with tqdm(total=size, initial=done, desc=name, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := response.read(1 << 18):
            part.write(chunk)
            bar.update(len(chunk))
            done += len(chunk)
    if size is not None and done != size:
        raise ValueError(f"the connection ended after {done:,} of {size:,} bytes")


# --- the pickled batches ------------------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    """Knows the three globals that a pickled numpy array needs, and refuses every other."""

    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise DataError(f"A file of CIFAR's asks for {module}.{name}, which no official file does.")
        return self._KNOWN[module, name]


def unpickle(contents: bytes) -> dict[str, Any]:
    """The dictionary in one of CIFAR's files. Raises DataError where it wants more than arrays."""
    loaded: dict[str, Any] = _Unpickler(io.BytesIO(contents), encoding="latin1").load()
    return loaded


def _batches(cifar: Cifar, files: dict[str, bytes], names: tuple[str, ...], sizing: Sizing) -> tuple[Pixels, Labels]:
    batches = [unpickle(files[name]) for name in names]
    flat = np.concatenate([batch["data"] for batch in batches])  # (N, 3072): all red, all green, all blue
    images = np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    if sizing.size != 32:
        images = np.stack([resize(Image.fromarray(image), sizing) for image in images])
    return images, np.concatenate([np.asarray(batch[cifar.labels_key], dtype=np.int64) for batch in batches])
