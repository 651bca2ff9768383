"""A folder of image files in one of the layouts of `layout.py`, an archive of one, or a table of paths and labels."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from lightning_vgg.experiment.specs import DataSpec
from lightning_vgg.images.archive import ARCHIVE_FAULTS, Member, archive_members, folder_members
from lightning_vgg.images.cache import FORMAT, PARTS, DecodedImages, Index, remember
from lightning_vgg.images.decode import Sizing, decode_all, is_hidden, is_image, is_image_name, walk_files
from lightning_vgg.images.imageset import DataError, ImageSet, error_text
from lightning_vgg.images.layout import LAYOUT, SPLITS, Parts, Place, arrange, check_classes, check_filled, hold_out

_log = logging.getLogger(__name__)

UNREADABLE = {
    ".heic": "needs a plugin: pip install pillow-heif, or save it as JPEG",
    ".heif": "needs a plugin: pip install pillow-heif, or save it as JPEG",
    ".jxl": "needs a plugin: pip install pillow-jxl-plugin, or save it as JPEG",
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf"), "is a camera's raw file: save it as JPEG"),
    ".svg": "is a drawing: save it as PNG",
}
"""Suffixes of images that Pillow does not read by itself -> why not, and what helps."""

_NO_IMAGES = {
    *(".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".db", ".ini", ".py", ".npy", ".pkl", ".pdf"),
    *(".zip", ".tar", ".gz", ".xz", ".mp4", ".mov", ".avi", ".mp3"),
}
"""Suffixes of files that are not even looked into; others may be images under a wrong name, or without a suffix."""


def load_folder(spec: DataSpec, sizing: Sizing, cache: Path) -> ImageSet:
    """The images at `spec.root`: a folder, a .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz archive of one, or a .csv.

    The layouts are those of `layout.arrange`; a .csv has the columns path (from the table's own folder), label, and
    perhaps split (train, val or test). Classes are sorted by name and files by name within their class, so a folder and
    its archive give the same arrays. Every file that is not used is counted in the remarks.

    Raises DataError when the layout is none of these, when classes differ between the parts, or, unless
    `spec.on_bad_image` is "skip", when an image cannot be decoded.
    """
    spec.require_root()
    assert spec.root is not None
    path = Path(spec.root).expanduser()
    reading = _Reading(path, sizing, spec.on_bad_image, spec.test_fraction)
    key, build = _source(path, reading)
    images = remember(cache, key, sizing.size, spec.memory, build)
    for remark in (*_left_out(images), *images.remarks):
        _log.warning("%s: %s", path, remark)
    return images


def _source(path: Path, reading: _Reading) -> tuple[str, Callable[[DecodedImages], Index]]:
    """What shows that nothing has changed, and how the images are decoded."""
    if path.is_dir():
        files = list(walk_files(path))
        key = reading.key("folder", _listing(path, files))
        return key, lambda images: reading.load(images, folder_members(path, files))
    if path.suffix.lower() == ".csv":
        table = read_table(path)
        files = [path.parent.joinpath(*parts) for parts in table]
        key = reading.key("csv", path.read_bytes() + _listing(path.parent, files))
        return key, lambda images: reading.load(images, folder_members(path.parent, files), table)
    with path.open("rb") as file:
        key = reading.key("archive", hashlib.file_digest(file, "sha256").digest())
    return key, reading.load_archive


def _left_out(images: ImageSet) -> list[str]:
    return [f"{len(images.left_out)} images are left out: {shortened(images.left_out)}"] if images.left_out else []


def shortened(names: Sequence[str]) -> str:
    """The first three, and how many more."""
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _listing(path: Path, files: list[Path]) -> bytes:
    """Names, sizes and times: what shows that no file has changed."""
    lines = []
    for file in sorted(files):
        about = file.stat()
        lines.append(f"{os.path.relpath(file, path)!r} {about.st_size} {about.st_mtime_ns}")
    return "".join(lines).encode()


def read_table(path: Path) -> dict[Parts, Place]:
    """The places of the images in a .csv.

    Raises:
        DataError: a column is missing, a row is incomplete, or a file comes twice.
    """
    table: dict[Parts, Place] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := {"path", "label"} - {*(rows.fieldnames or ())}:
            missing_columns = " or ".join(sorted(missing))
            raise DataError(
                f"{path}: there is no column {missing_columns}; the columns are path, label, and perhaps split."
            )
        for number, row in enumerate(rows, 2):
            name, label, split = row["path"], row["label"], row.get("split") or "train"
            if not name or not label or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DataError(
                    f"{path}, line {number}: path must lie below the table's folder, and label not be empty."
                )
            if split not in SPLITS:
                raise DataError(f"{path}, line {number}: split is {split!r}; it must be train, val or test.")
            parts = PurePosixPath(name).parts
            if not path.parent.joinpath(*parts).is_file():
                raise DataError(f"{path}, line {number}: there is no file {path.parent.joinpath(*parts)}.")
            if parts in table:
                raise DataError(f"{path}, line {number}: {name} is in the table already.")
            table[parts] = Place(SPLITS[split], label, parts)
    if not table:
        raise DataError(f"{path}: the table has no row.")
    splits = sorted({place.split for place in table.values()})
    check_classes(path, {split: {place.label for place in table.values() if place.split == split} for split in splits})
    return table


@dataclass(frozen=True)
class _Reading:
    """What is read, and how."""

    path: Path
    sizing: Sizing
    on_bad_image: Literal["error", "skip"]
    test_fraction: float

    def key(self, kind: str, contents: bytes) -> str:
        settings = f"{kind} {FORMAT} {self.sizing} {self.on_bad_image} {self.test_fraction}"
        return hashlib.sha256(settings.encode() + contents).hexdigest()

    def load_archive(self, images: DecodedImages) -> Index:
        try:
            return self.load(images, archive_members(self.path))
        except ARCHIVE_FAULTS as error:
            raise DataError(
                f"The archive {self.path} is damaged, cut short, or none of .zip, .tar, .tar.gz, .tar.bz2, .tar.xz: "
                f"{error_text(error)}. Get or make it again."
            ) from error

    def load(self, images: DecodedImages, members: Iterable[Member], table: dict[Parts, Place] | None = None) -> Index:
        survey = _Survey(self.path)
        files = _decoded(images, survey.images(members), self.sizing, self.path.name)
        reasons = files.reasons | survey.unreadable
        names = [*files.rows, *reasons]
        places = table or arrange(self.path, names, survey.folders)
        has_test = any(place.split == "test" for place in places.values())
        if not has_test:
            places = hold_out(places, self.test_fraction)
        bad = {parts: reasons[parts] for parts in reasons if parts in places}
        if bad and self.on_bad_image == "error":
            parts, reason = min(bad.items())
            more = f" ({len(bad)} such files in all)" if len(bad) > 1 else ""
            raise DataError(
                f"{self.path}: {'/'.join(parts)} cannot be decoded: {reason}{more}. Remove or repair it, "
                "or leave such files out by --data.on_bad_image skip."
            )
        used = {parts: place for parts, place in places.items() if parts in files.rows}
        if not used:
            raise DataError(survey.without_images(names))
        check_filled(self.path, places.values(), used.values())
        left_out = [f"{'/'.join(parts)} ({reason})" for parts, reason in sorted(bad.items())]
        unused = sorted(["/".join(parts) for parts in names if parts not in places] + survey.others)
        remarks = []
        if not has_test:
            count = sum(place.split == "test" for place in used.values())
            remarks.append(f"there is no test/: {count} of {len(used)} images are the test (data.test_fraction)")
        if unused:
            remarks.append(f"{len(unused)} files are not used: {shortened(unused)}")
        if larger := [files.shrunk[parts] for parts in used if parts in files.shrunk]:
            width, height = max(larger, key=math.prod)
            remarks.append(
                f"{len(larger)} of {len(used)} images are larger than data.image_size ({self.sizing.size}) and are "
                f"shrunk ({self.sizing.mode}); the largest has {width} x {height} pixels"
            )
        if pairs := in_two_parts(files.digests, used):
            remarks.append(f"{len(pairs)} images are in two parts, so the results are too good: {shortened(pairs)}")
        return _index(files.rows, used, left_out, remarks)


@dataclass
class _Survey:
    """What was seen.

    Attributes:
        path: of the whole.
        folders: all of them, also those without an image.
        unreadable: images that cannot be read -> why.
        others: files that are no images.
    """

    path: Path
    folders: set[Parts] = field(default_factory=set)
    unreadable: dict[Parts, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def images(self, members: Iterable[Member]) -> Iterator[tuple[Parts, bytes]]:
        """The encoded images among the members."""
        for name, read in members:
            parts = self._safe_parts(name)
            if not parts or any(map(is_hidden, parts)):
                continue
            folder = parts if read is None else parts[:-1]
            self.folders |= {folder[: depth + 1] for depth in range(len(folder))}
            if read is None:
                continue
            suffix = PurePosixPath(name).suffix.lower()
            if is_image_name(name):
                yield parts, read()
            elif suffix in UNREADABLE:
                self.unreadable[parts] = UNREADABLE[suffix]
            elif suffix not in _NO_IMAGES and is_image(data := read()):
                yield parts, data
            else:
                self.others.append(name)

    def _safe_parts(self, name: str) -> Parts:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            raise DataError(f"{self.path}: {name} points outside the archive; make the archive without it.")
        return parts

    def without_images(self, images: Iterable[Parts]) -> str:
        """What to say where none of the images is in a class folder."""
        example = f" such as {self.others[0]}" if self.others else ""
        names = sorted({parts[0] for parts in (*self.folders, *images)} | {name.split("/")[0] for name in self.others})
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return (
            f"{self.path}: there is no image in a class folder, but {len(self.others)} other files{example}. "
            f"At its top there is {', '.join(names[:8]) or 'nothing'}{more}. The layout is {LAYOUT}."
        )


@dataclass
class _Decoded:
    """What became of the files.

    Attributes:
        rows: the numbers of those that were decoded; where a name comes twice, the later file counts.
        digests: of their pixels.
        shrunk: width and height of those that were larger.
        reasons: why others were not decoded.
    """

    rows: dict[Parts, int] = field(default_factory=dict)
    digests: dict[Parts, bytes] = field(default_factory=dict)
    shrunk: dict[Parts, tuple[int, int]] = field(default_factory=dict)
    reasons: dict[Parts, str] = field(default_factory=dict)


def _decoded(images: DecodedImages, encoded: Iterable[tuple[Parts, bytes]], sizing: Sizing, name: str) -> _Decoded:
    from tqdm import tqdm

    files = _Decoded()
    progress = tqdm(encoded, desc=f"Decoding {name}", unit=" images", disable=None)
    for parts, found in decode_all(progress, sizing):
        if isinstance(found, str):
            files.reasons[parts] = found
            continue
        files.rows[parts] = images.append(found.image)
        files.digests[parts] = hashlib.blake2b(found.image.data, digest_size=16).digest()
        if max(found.size) > sizing.size:
            files.shrunk[parts] = found.size
        files.reasons.pop(parts, None)
    return files


def _index(rows: Mapping[Parts, int], places: Mapping[Parts, Place], left_out: list[str], remarks: list[str]) -> Index:
    classes = sorted({place.label for place in places.values()})
    label_of = {name: label for label, name in enumerate(classes)}
    files: dict[str, list[tuple[Place, Parts]]] = {part: [] for part in PARTS}
    for parts, place in places.items():
        files[place.split].append((place, parts))
    for each in files.values():
        each.sort()
    return Index(
        {part: np.array([rows[parts] for _, parts in each], np.int64) for part, each in files.items()},
        {part: np.array([label_of[place.label] for place, _ in each], np.int64) for part, each in files.items()},
        tuple(classes),
        tuple(left_out),
        tuple(remarks),
    )


def in_two_parts(digests: Mapping[Parts, bytes], places: Mapping[Parts, Place]) -> list[str]:
    """Pairs of files with the same pixels in different parts."""
    first: dict[bytes, Parts] = {}
    pairs = []
    for parts, place in sorted(places.items()):
        other = first.setdefault(digests[parts], parts)
        if places[other].split != place.split:
            pairs.append(f"{'/'.join(other)} = {'/'.join(parts)}")
    return pairs
