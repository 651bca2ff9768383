"""How many images each class has, and what is said where that differs much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightning_vgg.runs.best import Quantity

Counts = Mapping[str, Mapping[str, int]]
"""Images of each class in ``train``, ``val`` and ``test``: part -> class name -> images."""

UNBALANCED = 1.5
"""Classes are unbalanced where the largest has more than so many times the training images of the smallest."""
MOST_CLASSES = 20
"""Of a table in the terminal; of more classes it shows the largest and the smallest."""


def are_unbalanced(counts: Counts) -> bool:
    images = counts["train"].values()
    return max(images) > UNBALANCED * min(images)


def class_count_lines(counts: Counts, weighted: bool, best_by: Quantity) -> list[str]:
    """A table to print before training, and what helps; nothing where the classes are balanced.

    Args:
        counts: of all parts.
        weighted: whether the training loss has class weights.
        best_by: what epochs are judged by.
    """
    if not are_unbalanced(counts):
        return []
    names = sorted(counts["train"], key=lambda name: -counts["train"][name])
    width = max(len("images"), *map(len, names))

    def line(first: str, cells: Iterable[str]) -> str:
        return "  ".join([f"{first:<{width}}", *(f"{cell:>7}" for cell in cells)])

    rows = [line(name, (f"{of_part[name]:,}" for of_part in counts.values())) for name in names]
    if len(rows) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        rows[half:-half] = [f"... {len(rows) - 2 * half:,} more, in run.json"]
    places = []
    if not weighted:
        places.append("in training with --data.class_weight balanced")
    if best_by == "val_acc":
        places.append("in the choice of the best epoch with --model.best_by val_balanced_acc")
    advice = [f"The classes are unbalanced. They weigh the same {' and '.join(places)}"] if places else []
    return [line("images", counts), *rows, *advice]
