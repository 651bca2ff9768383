"""Decoded images kept on disk, so that an archive of image files is decoded once."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from lightning_vgg.images.imageset import ImageSet, error_text, make_image_set

FORMAT = 3  # raise it whenever the stored files, or the pixels that `decode` gives, change

_PARTS = ("train", "test", "val")
_log = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None) -> Path:
    """The folder for downloads and decoded images."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning-vgg"


def remember(cache: Path, key: str, build: Callable[[], ImageSet]) -> ImageSet:
    """The images kept under `key`; they are built and kept first where they are missing or damaged.

    Two processes may do this at the same time. A cache that cannot be written costs a warning, not the run.
    """
    entry = cache / f"images-{key}"
    kept = _read(entry)
    if kept is not None:
        return kept
    built = build()
    try:
        _write(entry, built)
    except OSError as error:
        _log.warning("Decoded images cannot be kept in %s (%s); next time they are decoded again.", cache, error)
    return built


def _read(entry: Path) -> ImageSet | None:
    """None where nothing is kept or what is kept differs from its fingerprint."""
    if not entry.exists():
        return None
    try:
        about = json.loads((entry / "about.json").read_text())
        train, test, val = (_read_part(entry, part) for part in _PARTS)
        kept = make_image_set(train, test, about["class_names"], about["left_out"], val, about["remarks"])
        if kept.fingerprint == about["fingerprint"]:
            return kept
        reason = "its contents differ from its fingerprint"
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = error_text(error)
    _log.warning("The cached images in %s are damaged (%s); they are made again.", entry, reason)
    _discard(entry)
    return None


def _read_part(entry: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(entry / f"{part}_images.npy"), np.load(entry / f"{part}_labels.npy")


def _discard(entry: Path) -> None:
    """Remove what may be in use: it is moved out of the way in one step, then deleted."""
    with suppress(OSError), tempfile.TemporaryDirectory(prefix=".images-", dir=entry.parent) as scratch:
        entry.rename(Path(scratch, "damaged"))


def _write(entry: Path, images: ImageSet) -> None:
    """Put the images there in one step, so that nobody ever sees half an entry."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".images-", dir=entry.parent) as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        for part in _PARTS:
            for what in ("images", "labels"):
                np.save(new / f"{part}_{what}.npy", getattr(images, f"{part}_{what}"))
        about = {name: getattr(images, name) for name in ("class_names", "fingerprint", "left_out", "remarks")}
        (new / "about.json").write_text(json.dumps(about))
        try:
            new.rename(entry)
        except OSError:
            if not entry.exists():  # else another process put the same images there meanwhile
                raise
