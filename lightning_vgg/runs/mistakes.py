"""The worst mistakes on the test images: which they are, and their pictures in the run folder.

::

    mistakes/
      mistakes.json        what is in the pictures: see `read_mistakes`
      17.jpg               test image 17, as the network got it
      17_grad_cam.jpg      the same under the map of what spoke for the wrong class

Which they are follows from test_predictions.npz alone, so whoever reads the pictures chooses as who wrote them did.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.folder import RunFolder, atomic_write
from lightning_vgg.runs.heat import overlaid
from lightning_vgg.runs.scores import confusion, probabilities
from lightning_vgg.runs.thumbnails import jpeg, thumbnail

SUREST = 12
"""Mistakes that are shown by themselves."""
PAIRS = 4
"""Pairs of classes that are shown, those that are confused most."""
EXAMPLES = 3
"""Mistakes that are shown of each pair. All in all there are at most SUREST + PAIRS · EXAMPLES pictures, 24."""
SIDE = 224
"""Pixels of a picture's longer side, at most."""
NO_CONVOLUTION = "the network has no convolution"
"""Why there is no Grad-CAM."""
_LIST = "mistakes.json"


class ImagesByNumber(Protocol):
    """uint8 images, each (S, S, C), in an array or in a file."""

    def __getitem__(self, number: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Attention:
    """Which parts of an image speak for a class.

    Attributes:
        layer: the convolution that is asked, by its name.
        heat: an image, uint8 (S, S, C), and the number of a class -> float (h, w), at least 0, by Grad-CAM.
    """

    layer: str
    heat: Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class ConfusedPair:
    """Test images of one class that were taken for another.

    Attributes:
        true, predicted: numbers of the classes.
        count: how many there are.
        images: the surest of them, by their numbers.
    """

    true: int
    predicted: int
    count: int
    images: list[int]


def surest_mistakes(labels: np.ndarray, logits: np.ndarray, count: int = SUREST) -> list[int]:
    """The numbers of the wrongly classified images, at most ``count``, those with the highest confidence first.

    Args:
        labels: (N,).
        logits: (N, classes).
        count: of images.
    """
    predicted = logits.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    order = np.argsort(-probabilities(logits[wrong]).max(1), kind="stable")
    return wrong[order[:count]].tolist()


def confused_pairs(labels: np.ndarray, logits: np.ndarray) -> list[ConfusedPair]:
    """The pairs of classes with the most mistakes, at most PAIRS; arguments as `surest_mistakes`."""
    matrix = confusion(labels, logits)
    np.fill_diagonal(matrix, 0)
    mistakes = surest_mistakes(labels, logits, len(labels))
    predicted = logits.argmax(1)
    pairs = []
    for place in np.argsort(-matrix, axis=None, kind="stable")[:PAIRS].tolist():
        true, other = divmod(place, len(matrix))
        if matrix[true, other]:
            images = [image for image in mistakes if (labels[image], predicted[image]) == (true, other)]
            pairs.append(ConfusedPair(true, other, int(matrix[true, other]), images[:EXAMPLES]))
    return pairs


def shown_mistakes(labels: np.ndarray, logits: np.ndarray) -> list[int]:
    """The numbers of all images that are shown, each once; arguments as `surest_mistakes`."""
    examples = [image for pair in confused_pairs(labels, logits) for image in pair.images]
    return list(dict.fromkeys([*surest_mistakes(labels, logits), *examples]))


def keep_mistakes(run: RunFolder, images: ImagesByNumber, attention: Attention | str) -> None:
    """Put the pictures of a tested run's worst mistakes into its folder.

    Args:
        run: whose test_predictions.npz and run.json are there.
        images: all test images, of three channels or one.
        attention: how the network is asked; or why there is no Grad-CAM, a sentence.
    """
    labels, logits = run.read_predictions()
    names, predicted, sure = run.read_record()["class_names"], logits.argmax(1), probabilities(logits).max(1)
    pictures = {}
    for number in shown_mistakes(labels, logits):
        pixels = _picture(images[number])
        heat = attention.heat(images[number], int(predicted[number])) if isinstance(attention, Attention) else None
        pictures[number] = {
            "true": names[labels[number]],
            "predicted": names[predicted[number]],
            "confidence": float(sure[number]),
            "picture": _write(run, f"{number}.jpg", pixels),
            "grad_cam": None if heat is None else _write(run, f"{number}_grad_cam.jpg", overlaid(pixels, heat)),
        }
    about = {
        "layer": attention.layer if isinstance(attention, Attention) else None,
        "without_grad_cam": attention if isinstance(attention, str) else None,
        "pictures": pictures,
    }
    with atomic_write(run.mistakes / _LIST) as file:  # last: what it names is there
        file.write(json.dumps(about, indent=1).encode() + b"\n")


def read_mistakes(run: RunFolder) -> PlainDict | None:
    """What `keep_mistakes` has kept; None where it has not.

    Returns:
        ``layer``, that of Grad-CAM; ``without_grad_cam``, why there is none; ``pictures``, by the numbers of the test
        images: ``true`` and ``predicted`` class, ``confidence``, and the files ``picture`` and ``grad_cam`` below the
        run folder.

    Raises:
        ExperimentError: the file is damaged.
    """
    path = run.mistakes / _LIST
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
        pictures = {int(number): each for number, each in about["pictures"].items()}
        return {"layer": about["layer"], "without_grad_cam": about["without_grad_cam"], "pictures": pictures}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExperimentError(f"{path} is damaged ({error!r}): test the run again, with --report true") from None


def _picture(image: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 1 or 3) -> (s, s, 3), of at most SIDE pixels."""
    from PIL import Image

    colours = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.asarray(thumbnail(Image.fromarray(np.ascontiguousarray(colours)), SIDE))


def _write(run: RunFolder, name: str, pixels: np.ndarray) -> str:
    """Its path below the run folder."""
    from PIL import Image

    with atomic_write(run.mistakes / name) as file:
        file.write(jpeg(Image.fromarray(pixels)))
    return f"{run.mistakes.name}/{name}"
