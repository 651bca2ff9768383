"""A heat map over a picture."""

from __future__ import annotations

import numpy as np


def coloured(heat: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """The colours of a map, stretched to its own range and to the pixels of a picture.

    Args:
        heat: float (h, w), at least 0.
        side: height and width of the picture.

    Returns:
        float (height, width, 3), from 0 to 1.
    """
    from matplotlib import colormaps
    from PIL import Image

    height, width = side
    scaled = np.asarray(heat, np.float32) / max(float(heat.max()), 1e-12)
    smooth = Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR)
    return colormaps["inferno"](np.asarray(smooth))[..., :3]


def overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture under the colours of a map.

    Args:
        pixels: uint8 (H, W, 3).
        heat: float (h, w), at least 0.

    Returns:
        uint8 (H, W, 3).
    """
    mixed = 0.45 * pixels / 255 + 0.55 * coloured(heat, pixels.shape[:2])
    return np.rint(255 * mixed).astype(np.uint8)
