"""What the table of chance does to images, in numpy; ``lightning_vgg.training.augmentation`` computes the same bits.

In this order: contrast, brightness, flips, shift, resized crop, rotation with zoom. All this happens to pixels of
0..255, where contrast and brightness are clipped to what a picture can hold, as in Keras. Cutout, erasing, mixup and
CutMix come after normalization: what is cut out becomes 0, the mean colour.

A change of values gives float32 in any precision of the training. No sum of fractions depends on its order, so nothing
depends on who computes it.
"""

from __future__ import annotations

import numpy as np

from lightning_vgg.experiment.draws import Draws, Mixing


def augmented(images: np.ndarray, draws: Draws) -> np.ndarray:
    """The drawn images with other colours, mirrored, shifted, cropped and turned.

    Args:
        images: all training images, uint8 (N, S, S, C).
        draws: the batch's rows.

    Returns:
        (B, S, S, C), uint8 where pixels only change places, else float32 in 0..255.
    """
    size = images.shape[1]
    image, shift = draws.index, draws.shift[:, :, None, None]
    if draws.contrast is not None or draws.brightness is not None:
        images, image = recoloured(images[image], draws), np.arange(len(image))
    if not draws.moves_pixels:  # a gather of single pixels takes fifty times as long
        return images[image]

    def stored_row(row: np.ndarray) -> np.ndarray:
        """Where a row of the mirrored and shifted images is in the stored ones."""
        row = row - shift[:, 0]
        if draws.vertical_flip is not None:
            row = np.where(draws.vertical_flip[:, None, None], size - 1 - row, row)
        return _reflect(row, size)

    def stored_column(column: np.ndarray) -> np.ndarray:
        column = column - shift[:, 1]
        return _reflect(np.where(draws.flip[:, None, None], size - 1 - column, column), size)

    def pixels(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return images[image[:, None, None], row, column]

    axis = np.arange(size)
    if draws.turn is None and draws.crop is None:
        return pixels(stored_row(axis[:, None]), stored_column(axis))
    if draws.turn is None:
        row, column = axis[:, None].astype(np.float32), axis.astype(np.float32)
    else:
        row, column = turned_places(draws.turn, size)
    top, bottom, down = neighbours(row, draws.crop, 0, size)
    left, right, across = neighbours(column, draws.crop, 1, size)
    columns = stored_column(left), stored_column(right)

    def between(row: np.ndarray) -> np.ndarray:
        one, other = (pixels(row, column).astype(np.float32) for column in columns)
        return one * (1 - across) + other * across

    return between(stored_row(top)) * (1 - down) + between(stored_row(bottom)) * down


def recoloured(images: np.ndarray, draws: Draws) -> np.ndarray:
    """``RandomContrast``, then ``RandomBrightness`` of Keras.

    Args:
        images: uint8 (B, S, S, C).
        draws: the batch's rows.

    Returns:
        float32 (B, S, S, C) in 0..255.
    """
    pixels = images.astype(np.float32)
    if draws.contrast is not None:
        # The sum is one of whole numbers, so it is exact.
        mean = images.sum((1, 2), np.int64, keepdims=True).astype(np.float32) * np.float32(1 / images.shape[1] ** 2)
        factor = draws.contrast.astype(np.float32)[:, None, None, None]
        pixels = ((pixels - mean) * factor + mean).clip(0, 255)
    if draws.brightness is not None:
        pixels = (pixels + draws.brightness.astype(np.float32)[:, None, None, None]).clip(0, 255)
    return pixels


def turned_places(turn: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a turned image comes from, as in ``keras.layers.RandomRotation`` and ``RandomZoom``.

    Args:
        turn: zoom times cosine and sine of the angle (B, 2).
        size: pixels a side.

    Returns:
        row and column, float32 (B, S, S).
    """
    centre = (size - 1) / 2
    away = np.arange(size, dtype=np.float32) - np.float32(centre)
    cosine, sine = turn.astype(np.float32).T[:, :, None, None]
    down, right = away[:, None], away
    return sine * right + cosine * down + np.float32(centre), cosine * right - sine * down + np.float32(centre)


def neighbours(
    place: np.ndarray, crop: np.ndarray | None, axis: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels along an axis that a place lies between, beyond the edge mirrored.

    A crop is resized as by ``torchvision.transforms.v2.functional.resized_crop`` without antialiasing.

    Args:
        place: in the resized crop, float32, (B, S, S) or what broadcasts to it.
        crop: rectangles, int64 (B, 2, 2); None for the whole image.
        axis: 0 for rows, 1 for columns.
        size: pixels a side.

    Returns:
        Both pixels, int64, and the weight of the second one, float32, with an axis for the channels.
    """
    first, side = 0, size
    if crop is not None:
        first, end = crop[:, :, axis, None, None].swapaxes(0, 1)
        side = end - first
        place = (place + 0.5) * (side.astype(np.float32) * np.float32(1 / size)) - 0.5
    before = np.floor(place)
    pixel = before.astype(np.int64)
    return first + _mirror(pixel, side), first + _mirror(pixel + 1, side), (place - before)[..., None]


def inside(first: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    """Which pixels lie in rectangles from a row and column (B, 2) to before others (B, 2): bool (B, S, S)."""
    axis = np.arange(size)
    within = (axis >= first[..., None]) & (axis < end[..., None])
    return within[:, 0, :, None] & within[:, 1, None, :]


def mixed(images: np.ndarray, labels: np.ndarray, mixing: Mixing, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) of a whole batch.

    The cross-entropy with the shares is share · CE(own label) + (1 - share) · CE(the other's).

    Args:
        images: floats (B, S, S, C).
        labels: int64 (B,).
        mixing: the batch's rows.
        classes: how many there are.

    Returns:
        Images of the same shape and dtype, and each class's share of them (B, classes), in that dtype, too.
    """
    partner = mixing.partners()
    others, one_hot = images[partner], np.eye(classes, dtype=images.dtype)[labels]
    if mixing.blend is not None:
        weight = mixing.blend.astype(images.dtype)[:, None, None, None]
        images = weight * images + (1 - weight) * others
    if mixing.pasted is not None:
        pasted = inside(mixing.pasted[:, 0], mixing.pasted[:, 1], images.shape[1])
        images = np.where(pasted[..., None], others, images)
    share = mixing.share.astype(images.dtype)[:, None]
    return images, share * one_hot + (1 - share) * one_hot[partner]


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Fold indices that run over an edge back into the image, without repeating the edge pixel."""
    return (size - 1) - np.abs((size - 1) - np.abs(index))


def _mirror(index: np.ndarray, size: int | np.ndarray) -> np.ndarray:
    """The same with the edge pixel repeated, as Keras's ``fill_mode="reflect"`` has it."""
    index = np.maximum(index, -1 - index)
    return np.minimum(index, 2 * size - 1 - index)
