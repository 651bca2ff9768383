"""Test-time augmentation: mean logits of an image and of mirrored and shifted copies of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def augmented_logits(
    network: Callable[[Tensor], Tensor], images: Tensor, plain: Tensor, how: Literal["mirror", "mirror_and_shift"]
) -> Tensor:
    """Mean logits of each image and its mirror image; with ``mirror_and_shift`` also of both moved by a pixel.

    The weights are those of Keller Jordan's airbench94 (arXiv 2404.00498): the image in its place counts 1/2, moved
    up and left 1/4, down and right 1/4; edges are filled by reflection.

    Args:
        network: images -> logits.
        images: (B, C, S, S).
        plain: the network's logits of them (B, classes).
        how: which images.

    Returns:
        (B, classes).
    """

    def mirrored(images: Tensor, plain: Tensor) -> Tensor:
        return (plain + network(images.flip(-1))) / 2

    in_place = mirrored(images, plain)
    if how == "mirror":
        return in_place
    size = images.shape[-1]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    moved = [padded[..., first : first + size, first : first + size] for first in (0, 2)]
    upper, lower = (mirrored(image, network(image)) for image in moved)
    return in_place / 2 + (upper + lower) / 4
