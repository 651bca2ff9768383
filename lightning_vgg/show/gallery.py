"""Predictions as one HTML file: the pictures by class, the least sure first."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, ImageOps

from lightning_vgg.runs.folder import atomic_write
from lightning_vgg.runs.thumbnails import jpeg, thumbnail

THUMBNAIL = 160
"""Pixels of a picture's longer side."""


def write_gallery(path: Path, files: Sequence[Path], probabilities: np.ndarray, class_names: Sequence[str]) -> None:
    """Write the file; it holds the pictures itself.

    Args:
        path: of the file.
        files: images.
        probabilities: of each, float (files, classes).
        class_names: in the order of the columns.
    """
    best = probabilities.argmax(1)
    sections = []
    for label, name in enumerate(class_names):
        members = sorted((i for i in range(len(files)) if best[i] == label), key=lambda i: probabilities[i, label])
        pictures = [
            {"name": files[i].name, "data": _thumbnail(files[i]), "ranked": _ranked(probabilities[i], class_names)}
            for i in members
        ]
        if pictures:
            sections.append({"name": name, "pictures": pictures})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_vgg.show"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("gallery.html.j2").render(sections=sections, count=len(files))
    with atomic_write(path) as page:
        page.write(text.encode())


def _ranked(probabilities: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """The three most likely classes, such as ``cat 71.2 %``."""
    return [f"{class_names[label]} {probabilities[label]:.1%}" for label in np.argsort(-probabilities)[:3]]


def _thumbnail(file: Path) -> str:
    """A JPEG, in base64."""
    with Image.open(file) as stored:
        image = ImageOps.exif_transpose(stored).convert("RGB")
    return base64.b64encode(jpeg(thumbnail(image, THUMBNAIL))).decode()
