"""A heat map over a picture."""

from __future__ import annotations

import numpy as np

COLD, HOT = 0.3, 0.7
"""How opaque the colours are over a picture, where its map is 0 and where it is highest."""


def stretched(heat: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """A map (h, w), at least 0, over a picture of that height and width; float32, from 0 to 1."""
    from PIL import Image

    height, width = side
    scaled = np.asarray(heat, np.float32) / max(float(heat.max()), 1e-12)
    return np.asarray(Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR))


def coloured(heat: np.ndarray) -> np.ndarray:
    """The colours of a map, from 0 to 1: (H, W) -> (H, W, 3)."""
    from matplotlib import colormaps

    return colormaps["inferno"](heat)[..., :3]


def overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture under the colours of a map.

    Args:
        pixels: uint8 (H, W, 3).
        heat: float (h, w), at least 0.

    Returns:
        uint8 (H, W, 3).
    """
    heat = stretched(heat, pixels.shape[:2])
    opacity = (COLD + (HOT - COLD) * heat)[..., None]
    return np.rint((1 - opacity) * pixels + opacity * 255 * coloured(heat)).astype(np.uint8)
