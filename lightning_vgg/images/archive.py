"""The files of a folder or an archive, one after the other; archives are read as a stream, never extracted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from lightning_vgg.images.imageset import DataError

ARCHIVE_FAULTS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,  # a .zip with a compression that Python does not know
)
"""What reading a damaged archive may raise."""

_DECOMPRESSORS: dict[bytes, type[gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class Member(NamedTuple):
    """A file or a folder. A file must be read before the next member is asked for."""

    name: str  # path below the root, "/" between its parts
    read: Callable[[], bytes] | None  # None: a folder


def folder_members(path: Path, files: Iterable[Path]) -> Iterator[Member]:
    """Raises DataError for a file that cannot be read, when it is."""
    for file in files:
        yield Member(file.relative_to(path).as_posix(), None if file.is_dir() else partial(_read, file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:  # its own message does not always name the file
        raise DataError(f"The image {file} cannot be read: {error.strerror}. Remove or repair it.") from error


def archive_members(path: Path) -> Iterator[Member]:
    """Raises one of ARCHIVE_FAULTS for a damaged archive, DataError for a link or an encrypted file."""
    return _zip(path) if path.suffix.lower() == ".zip" else _tar(path)


def _zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _refused_link(path, info.filename)
            if info.flag_bits & 1:
                raise DataError(f"{path}: {info.filename} is encrypted; make the archive without a password.")
            yield Member(info.filename, None if info.is_dir() else partial(archive.read, info))


def _tar(path: Path) -> Iterator[Member]:
    # "|" reads in one pass: going back in a compressed stream means starting again.
    with _decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        for info in archive:
            if info.issym() or info.islnk():
                raise _refused_link(path, info.name)
            if info.isdir():
                yield Member(info.name, None)
            elif info.isfile():
                yield Member(info.name, partial(_read_tar, archive, info))
        while stream.read(1 << 20):  # to the end, where the checksum is
            pass


class _Header(tarfile.TarInfo):
    """A damaged header is an error; tarfile itself would take it, or a truncation, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset} of the .tar") from error


def _decompressed(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        start = file.read(6)
    for signature, decompressor in _DECOMPRESSORS.items():
        if start.startswith(signature):
            return decompressor(path)
    return path.open("rb")


def _read_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None, "only folders and devices have no contents"
    return file.read()


def _refused_link(path: Path, name: str) -> DataError:
    return DataError(f"{path}: {name} is a link; put the files themselves in (tar --dereference).")
