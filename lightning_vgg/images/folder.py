"""A folder of image files, `train/<class>/*` and `test/<class>/*`, or an archive of one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from lightning_vgg.images.archive import ARCHIVE_FAULTS, Member, archive_members, folder_members
from lightning_vgg.images.cache import FORMAT, remember
from lightning_vgg.images.decode import decode_all, is_hidden, is_image_name, walk_files
from lightning_vgg.images.imageset import DataError, Images, ImageSet, Labels, error_text, make_image_set

OnBadImage = Literal["error", "skip"]

_log = logging.getLogger(__name__)

SPLITS = ("train", "test")
LAYOUT = "train/<class>/<image> and test/<class>/<image>"


def load_folder(root: str | None, image_size: int, cache: Path, on_bad_image: OnBadImage = "error") -> ImageSet:
    """The images below `root`: a folder, or a .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz archive of one.

    Classes are sorted by name and files by name within their class, so a folder and its archive give the same
    arrays. Hidden files, files that are not images, and everything beside `train` and `test` are left out.

    Raises DataError when the layout is not `train/<class>/*` and `test/<class>/*` with the same two or more
    classes, or, unless `on_bad_image` is "skip", when a file cannot be decoded.
    """
    if root is None:
        raise DataError(f"The source 'folder' needs data.root: a folder, or an archive, that holds {LAYOUT}.")
    path = Path(root).expanduser()
    if path.is_dir():
        files = list(walk_files(path))
        key = _folder_key(path, files, image_size, on_bad_image)
        images = remember(cache, key, lambda: _load(path, folder_members(path, files), image_size, on_bad_image))
    elif path.is_file():
        key = _archive_key(path, image_size, on_bad_image)
        images = remember(cache, key, lambda: _load_archive(path, image_size, on_bad_image))
    else:
        raise DataError(f"data.root: there is no folder or archive {path}.")
    if images.left_out:
        more = f" and {len(images.left_out) - 3} more" if len(images.left_out) > 3 else ""
        _log.warning(
            "%s: %d images are left out: %s%s", path, len(images.left_out), "; ".join(images.left_out[:3]), more
        )
    return images


def _folder_key(path: Path, files: list[Path], image_size: int, on_bad_image: OnBadImage) -> str:
    digest = hashlib.sha256(f"folder {FORMAT} {image_size} {on_bad_image}".encode())
    for file in sorted(files):
        about = file.stat()
        digest.update(f"{file.relative_to(path).as_posix()!r} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def _archive_key(path: Path, image_size: int, on_bad_image: OnBadImage) -> str:
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"archive {FORMAT} {image_size} {on_bad_image} {contents}".encode()).hexdigest()


def _load_archive(path: Path, image_size: int, on_bad_image: OnBadImage) -> ImageSet:
    try:
        return _load(path, archive_members(path), image_size, on_bad_image)
    except ARCHIVE_FAULTS as error:
        raise DataError(
            f"The archive {path} is damaged, cut short, or none of .zip, .tar, .tar.gz, .tar.bz2, .tar.xz: "
            f"{error_text(error)}. Get or make it again."
        ) from error


class Place(NamedTuple):
    """The place of an image: enclosing folder ("" for none), split, class, and path within the class."""

    top: str
    split: str
    label: str
    file: tuple[str, ...]


class _Survey:
    """What was seen besides the images, for the checks and their messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()  # top-level names
        self.folders: set[Place] = set()  # class folders, also those without an image
        self.left_out: list[str] = []

    def images(self, members: Iterable[Member]) -> Iterator[tuple[Place, bytes]]:
        """The encoded images among the members."""
        for name, read in members:
            parts = self._safe_parts(name)
            if not parts or any(map(is_hidden, parts)):
                continue
            self.names.add(parts[0])
            self._note_class_folder(parts if read is None else parts[:-1])
            place = _place(parts)
            if read is None:
                continue
            if place is None or not is_image_name(parts[-1]):
                self.left_out.append(name)
                continue
            if not place.file:
                raise DataError(f"{self.path}: {name} is not in a class folder; the layout is {LAYOUT}.")
            yield place, read()

    def _note_class_folder(self, folder: tuple[str, ...]) -> None:
        place = _place(folder)
        if place is not None:
            self.folders.add(place._replace(file=()))

    def _safe_parts(self, name: str) -> tuple[str, ...]:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            raise DataError(f"{self.path}: {name} points outside the archive; make the archive without it.")
        return parts


def _place(parts: tuple[str, ...]) -> Place | None:
    """None for what is outside the folders in `train` and `test`. A class folder has an empty `file`."""
    for depth in (0, 1):
        if len(parts) > depth + 1 and parts[depth] in SPLITS:
            return Place("".join(parts[:depth]), parts[depth], parts[depth + 1], parts[depth + 2 :])
    return None


def _load(path: Path, members: Iterable[Member], image_size: int, on_bad_image: OnBadImage) -> ImageSet:
    from tqdm import tqdm

    survey = _Survey(path)
    encoded = tqdm(survey.images(members), desc=f"Decoding {path.name}", unit=" images", disable=None)
    images, reasons = decode_all(encoded, image_size)
    if reasons and on_bad_image == "error":
        place, reason = min(reasons.items())
        more = f" ({len(reasons)} such files in all)" if len(reasons) > 1 else ""
        raise DataError(
            f"{path}: {_in_words(place)} cannot be decoded: {reason}{more}. Remove or repair it, "
            "or leave such files out by --data.on_bad_image skip."
        )
    if not images:
        raise DataError(_no_images(survey))
    left_out = [f"{_in_words(place)} ({reason})" for place, reason in sorted(reasons.items())]
    return _assemble(survey, images, left_out)


def _in_words(place: Place) -> str:
    return "/".join(filter(None, (place.top, place.split, place.label, *place.file)))


def _no_images(survey: _Survey) -> str:
    example = f" such as {survey.left_out[0]}" if survey.left_out else ""
    others = f"{len(survey.left_out)} other files{example}"
    return f"{survey.path}: there is no image, but {others}. {_top_names(survey)} The layout is {LAYOUT}."


def _top_names(survey: _Survey) -> str:
    names = sorted(survey.names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"At its top there is {', '.join(names[:8]) or 'nothing'}{more}."


def _assemble(survey: _Survey, images: dict[Place, Images], left_out: list[str]) -> ImageSet:
    top = _enclosing_folder(survey, images)
    classes = _checked_classes(survey, top, {place._replace(file=()) for place in images})
    label_of = {name: label for label, name in enumerate(classes)}

    def arrays(split: str) -> tuple[Images, Labels]:
        places = sorted(place for place in images if place[:2] == (top, split))
        labels = np.array([label_of[place.label] for place in places], dtype=np.int64)
        return np.stack([images[place] for place in places]), labels

    return make_image_set(arrays("train"), arrays("test"), classes, left_out)


def _enclosing_folder(survey: _Survey, images: dict[Place, Images]) -> str:
    """The one folder that contains train/ and test/; "" if they are at the top."""
    tops = sorted({place.top for place in images})
    if len(tops) > 1 and tops[0]:
        raise DataError(f"{survey.path}: several folders contain train/ or test/: {', '.join(tops)}. Keep one.")
    return tops[0]


def _checked_classes(survey: _Survey, top: str, filled: set[Place]) -> list[str]:
    train, test = ({place.label for place in survey.folders if place[:2] == (top, split)} for split in SPLITS)
    if not train or not test:
        raise DataError(
            f"{survey.path}: there is no {'test' if train else 'train'}/ with class folders. "
            f"{_top_names(survey)} The layout is {LAYOUT}."
        )
    if train != test:
        only = {"train": sorted(train - test), "test": sorted(test - train)}
        differ = "; ".join(f"only in {split}/: {', '.join(names)}" for split, names in only.items() if names)
        raise DataError(f"{survey.path}: train/ and test/ must have the same class folders; {differ}.")
    empty = sorted(_in_words(place) for place in survey.folders if place.top == top and place not in filled)
    if empty:
        raise DataError(f"{survey.path}: no image in the class folder {', '.join(empty)}. Remove it or fill it.")
    if len(train) < 2:
        raise DataError(f"{survey.path}: there is only one class, {', '.join(train)}; at least two are needed.")
    return sorted(train)
