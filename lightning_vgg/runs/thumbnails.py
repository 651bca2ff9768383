"""Small pictures for pages."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def thumbnail(image: Image, side: int) -> Image:
    """An image with at most ``side`` pixels on its longer side; of a few pixels, each of them is to be seen."""
    from PIL import Image

    image = image.copy()
    image.thumbnail((side, side))
    if max(image.size) < side // 2:
        scale = side // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return image


def jpeg(image: Image) -> bytes:
    """The contents of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
