"""What the table of chance does to images, on the device: as ``lightning_vgg.images.augmentation``, bit for bit.

Each operation is rounded by itself there and here, so none may be fused (``addcmul``, ``lerp``, a compiled graph), and
no sum of fractions may be left to a kernel's order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vgg.experiment.draws import Draws


class MixedRows(NamedTuple):
    """Which of the images that are cut belong to the batch, and what is mixed into each of them.

    ``own`` and ``partner``, int64 (B,), are places among the cut images; the rest is as in
    :class:`~lightning_vgg.experiment.draws.Mixing`.
    """

    own: Tensor
    partner: Tensor
    share: Tensor
    blend: Tensor | None
    pasted: Tensor | None


class TrainRows(NamedTuple):
    """A training batch before it is cut: see :class:`~lightning_vgg.experiment.draws.Draws`.

    Where images are mixed, partners from other processes' shares of the batch are among them. ``fetched`` holds the
    images uint8 (B, S, S, C), or their features (B, ..., C), where the device has not all of them.
    """

    image: Tensor
    flip: Tensor
    shift: Tensor
    cutout: Tensor
    mask_key: Tensor
    vertical_flip: Tensor | None = None
    turn: Tensor | None = None
    contrast: Tensor | None = None
    brightness: Tensor | None = None
    erased: Tensor | None = None
    mixing: MixedRows | None = None
    crop: Tensor | None = None
    fetched: Tensor | None = None
    moves_pixels: bool = True


def train_rows(draws: Draws, batch: slice, share: slice) -> TrainRows:
    """A process's share of a batch of the epoch's rows.

    A partner is chosen among the whole batch, and each process cuts the partners of its images for itself. So what is
    mixed does not depend on the number of processes.
    """
    places = range(len(draws.index))[batch][share]
    mine = slice(places.start, places.stop, places.step)
    if draws.mixing is None:
        return _as_tensors(draws[mine])
    own, partners = np.array(places, np.int64), (batch.start + draws.mixing[batch].partners())[share]
    cut, mixing = np.union1d(own, partners), draws.mixing[mine]
    return _as_tensors(draws[cut])._replace(
        mixing=MixedRows(
            own=torch.from_numpy(np.searchsorted(cut, own)),
            partner=torch.from_numpy(np.searchsorted(cut, partners)),
            share=torch.from_numpy(mixing.share),
            blend=_tensor(mixing.blend),
            pasted=_tensor(mixing.pasted),
        )
    )


def _as_tensors(draws: Draws) -> TrainRows:
    return TrainRows(
        image=torch.from_numpy(draws.index),
        flip=torch.from_numpy(draws.flip),
        shift=torch.from_numpy(draws.shift),
        cutout=torch.from_numpy(draws.cutout),
        mask_key=torch.from_numpy(draws.mask_key),
        vertical_flip=_tensor(draws.vertical_flip),
        turn=_tensor(draws.turn),
        contrast=_tensor(draws.contrast),
        brightness=_tensor(draws.brightness),
        erased=_tensor(draws.erased),
        crop=_tensor(draws.crop),
        moves_pixels=draws.moves_pixels,
    )


def _tensor(column: np.ndarray | None) -> Tensor | None:
    return None if column is None else torch.from_numpy(column)


def augmented(images: Tensor, rows: TrainRows) -> Tensor:
    """uint8 (N, S, S, C) -> (B, S, S, C), uint8 where pixels only change places, else float32 in 0..255."""
    size, channels = images.shape[2:]
    image, shift = rows.image[:, None, None], rows.shift[:, :, None, None]
    if rows.contrast is not None or rows.brightness is not None:
        images = recoloured(images.index_select(0, rows.image), rows)
        image = torch.arange(len(images), device=images.device)[:, None, None]
    if not rows.moves_pixels:  # a gather of single pixels takes fifty times as long
        return images.index_select(0, image.view(-1))
    flat = images.view(-1, channels)

    def stored_row(row: Tensor) -> Tensor:
        """Where a row of the mirrored and shifted images is in the stored ones."""
        row = row - shift[:, 0]
        if rows.vertical_flip is not None:
            row = torch.where(rows.vertical_flip[:, None, None], size - 1 - row, row)
        return _reflect(row, size)

    def stored_column(column: Tensor) -> Tensor:
        column = column - shift[:, 1]
        return _reflect(torch.where(rows.flip[:, None, None], size - 1 - column, column), size)

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        # One gather of whole pixels does the lookup, the flips and the shift.
        pixel = (image * size + row) * size + column
        return flat.index_select(0, pixel.view(-1)).view(-1, size, size, channels)

    axis = torch.arange(size, device=images.device)
    if rows.turn is None and rows.crop is None:
        return pixels(stored_row(axis[:, None]), stored_column(axis))
    if rows.turn is None:
        row, column = axis[:, None].float(), axis.float()
    else:
        row, column = turned_places(rows.turn, size)
    top, bottom, down = neighbours(row, rows.crop, 0, size)
    left, right, across = neighbours(column, rows.crop, 1, size)
    columns = stored_column(left), stored_column(right)

    def between(row: Tensor) -> Tensor:
        one, other = (pixels(row, column).float() for column in columns)
        return one * (1 - across) + other * across

    return between(stored_row(top)) * (1 - down) + between(stored_row(bottom)) * down


def recoloured(images: Tensor, rows: TrainRows) -> Tensor:
    """uint8 (B, S, S, C) -> float32 (B, S, S, C) in 0..255."""
    pixels = images.float()
    if rows.contrast is not None:
        mean = images.sum((1, 2), keepdim=True, dtype=torch.int64).float() * (1 / images.shape[1] ** 2)
        pixels = ((pixels - mean) * rows.contrast.float()[:, None, None, None] + mean).clip(0, 255)
    if rows.brightness is not None:
        pixels = (pixels + rows.brightness.float()[:, None, None, None]).clip(0, 255)
    return pixels


def turned_places(turn: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Row and column, float32 (B, S, S), where each pixel of a turned image comes from."""
    centre = (size - 1) / 2
    away = torch.arange(size, dtype=torch.float32, device=turn.device) - centre
    cosine, sine = turn.float()[:, :, None, None].unbind(1)
    down, right = away[:, None], away
    return sine * right + cosine * down + centre, cosine * right - sine * down + centre


def neighbours(place: Tensor, crop: Tensor | None, axis: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both pixels along an axis that a place lies between, int64, and the weight of the second one, float32."""
    first: Tensor | int = 0
    side: Tensor | int = size
    if crop is not None:
        first, end = crop[:, :, axis, None, None].unbind(1)
        side = end - first
        place = (place + 0.5) * (side.float() * (1 / size)) - 0.5
    before = place.floor()
    pixel = before.long()
    return first + _mirror(pixel, side), first + _mirror(pixel + 1, side), (place - before)[..., None]


def inside(first: Tensor, end: Tensor, size: int) -> Tensor:
    """Which pixels lie in rectangles from a row and column (B, 2) to before others (B, 2): bool (B, S, S)."""
    axis = torch.arange(size, device=first.device)
    within = (axis >= first[..., None]) & (axis < end[..., None])
    return within[:, 0, :, None] & within[:, 1, None, :]


def mixed(images: Tensor, labels: Tensor, mixing: MixedRows, classes: int) -> tuple[Tensor, Tensor]:
    """Mixup and CutMix.

    Args:
        images: those that were cut, floats (N, S, S, C).
        labels: theirs, int64 (N,).
        mixing: the batch's rows.
        classes: how many there are.

    Returns:
        Images (B, S, S, C), and each class's share of them (B, classes), both in the dtype of ``images``.
    """
    own, others = images.index_select(0, mixing.own), images.index_select(0, mixing.partner)
    if mixing.blend is not None:
        weight = mixing.blend.to(images.dtype)[:, None, None, None]
        own = weight * own + (1 - weight) * others
    if mixing.pasted is not None:
        pasted = inside(mixing.pasted[:, 0], mixing.pasted[:, 1], images.shape[1])
        own = torch.where(pasted[..., None], others, own)
    share = mixing.share.to(images.dtype)[:, None]
    one_hot = F.one_hot(labels, classes).to(images.dtype)
    return own, share * one_hot[mixing.own] + (1 - share) * one_hot[mixing.partner]


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _mirror(index: Tensor, size: int | Tensor) -> Tensor:
    index = torch.maximum(index, -1 - index)
    return torch.minimum(index, 2 * size - 1 - index)
