"""Which file belongs to which part and class: the layouts of an image folder.

- ``train/<class>/*``, ``test/<class>/*`` and perhaps ``val/<class>/*``;
- the same without a test: some of the training images become one;
- ``<class>/*`` alone: likewise;
- all of these inside one enclosing folder.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from lightning_vgg.images.imageset import DataError

Parts = tuple[str, ...]
"""A path below the root, such as ("train", "cat", "1.png")."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of folders -> which part of the images they hold."""
LAYOUT = "train/<class>/<image> and test/<class>/<image>, or <class>/<image>"


class Place(NamedTuple):
    """Where an image belongs.

    ``split`` is train, val or test; ``file`` is the path within the class.
    """

    split: str
    label: str
    file: Parts


def arrange(path: object, files: Collection[Parts], folders: Collection[Parts]) -> dict[Parts, Place]:
    """The place of every image; those that belong nowhere are left out.

    Args:
        path: of the whole, for messages.
        files: all image files.
        folders: all folders, also those without images.

    Raises:
        DataError: the files have none of the layouts, classes differ, or one has no image.
    """
    top = _enclosing_folder(path, files, folders)
    inside = {parts: parts[len(top) :] for parts in files if parts[: len(top)] == top}
    folders = {parts[len(top) :] for parts in folders if parts[: len(top)] == top} - {()}
    splits = _split_folders(path, {parts[0] for parts in (*inside.values(), *folders) if parts[0] in SPLITS})
    if splits:
        places = _by_split(path, inside, splits)
        classes = {name: {parts[1] for parts in folders if len(parts) > 1 and parts[0] == name} for name in splits}
    else:
        places = {file: Place("train", parts[0], parts[1:]) for file, parts in inside.items() if len(parts) > 1}
        classes = {"": {parts[0] for parts in folders}}
    if not places and not any(classes.values()):
        return {}
    check_classes(path, classes)
    expected = [
        Place(split, label, ())
        for folder, labels in classes.items()
        for label in labels
        if (split := splits.get(folder, "train")) != "val"
    ]
    check_filled(path, expected, places.values())
    return places


def _enclosing_folder(path: object, files: Collection[Parts], folders: Collection[Parts]) -> Parts:
    """The one folder that everything is in; () for none."""
    names = {parts[0] for parts in (*files, *folders)}
    if names & {*SPLITS}:
        return ()
    tops = sorted({parts[0] for parts in (*files, *folders) if len(parts) > 1 and parts[1] in SPLITS})
    if len(tops) > 1:
        raise DataError(f"{path}: several folders contain train/ or test/: {', '.join(tops)}. Keep one.")
    if tops:
        return (tops[0],)
    alone = len(names) == 1 and files and all(len(parts) > 2 for parts in files)
    return (names.pop(),) if alone else ()


def _split_folders(path: object, names: set[str]) -> dict[str, str]:
    """Folder -> split."""
    splits = {name: split for name, split in SPLITS.items() if name in names}
    validation = [name for name, split in splits.items() if split == "val"]
    if len(validation) > 1:
        raise DataError(
            f"{path}: {' and '.join(f'{name}/' for name in validation)} both hold validation images. Keep one."
        )
    if splits and "train" not in splits:
        raise DataError(
            f"{path}: there is no train/ with class folders, only {', '.join(f'{name}/' for name in splits)}."
        )
    return splits


def _by_split(path: object, inside: Mapping[Parts, Parts], splits: Mapping[str, str]) -> dict[Parts, Place]:
    places = {}
    for file, parts in inside.items():
        if parts[0] not in splits:
            continue
        if len(parts) < 3:
            raise DataError(f"{path}: {'/'.join(file)} is not in a class folder; the layout is {LAYOUT}.")
        places[file] = Place(splits[parts[0]], parts[1], parts[2:])
    return places


def check_classes(path: object, classes: Mapping[str, set[str]]) -> None:
    """Raise DataError unless the parts, by name, have the same two or more classes; a validation may lack some."""
    lacking = {folder for folder, names in classes.items() if SPLITS.get(folder) == "val"}
    known = set.union(*(names for folder, names in classes.items() if folder not in lacking))
    classes = {folder: names for folder, names in classes.items() if folder not in lacking or names - known}
    everywhere = set.union(*classes.values())
    if any(names != everywhere for names in classes.values()):
        common = set.intersection(*classes.values())
        differ = "; ".join(
            f"only in {folder}/: {', '.join(sorted(names - common))}"
            for folder, names in classes.items()
            if names - common
        )
        among = " and ".join(f"{folder}/" for folder in classes)
        raise DataError(f"{path}: {among} must have the same class folders; {differ}.")
    if len(everywhere) < 2:
        raise DataError(f"{path}: there is only one class, {', '.join(everywhere)}; at least two are needed.")


def check_filled(path: object, expected: Iterable[Place], found: Iterable[Place]) -> None:
    """Raise DataError for a class that has no image in one of the parts."""
    filled = {(place.split, place.label) for place in found}
    empty = sorted({f"{place.split}/{place.label}" for place in expected if place[:2] not in filled})
    if empty:
        raise DataError(f"{path}: no image in the class folder {', '.join(empty)}. Remove it or fill it.")


def hold_out(places: Mapping[Parts, Place], fraction: float) -> dict[Parts, Place]:
    """Make some of the training images a test: of each class those whose names have the smallest hashes.

    An image's hash depends on its own name alone, so that other files, added later, move it nowhere. At least one image
    of each class is taken, and at least one stays.
    """
    by_class: dict[str, list[tuple[float, Parts]]] = defaultdict(list)
    for file, place in places.items():
        if place.split == "train":
            by_class[place.label].append((_share(place), file))
    held = dict(places)
    for shares in by_class.values():
        shares.sort()
        count = sum(share < fraction for share, _ in shares)
        for _, file in shares[: min(max(count, 1), len(shares) - 1)]:
            held[file] = places[file]._replace(split="test")
    return held


def _share(place: Place) -> float:
    """A number in [0, 1) that follows from the class and the name (BLAKE2b)."""
    digest = hashlib.blake2b("/".join((place.label, *place.file)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
