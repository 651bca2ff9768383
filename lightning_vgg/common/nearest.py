"""``did you mean ...?``: the nearest of the words that are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most like this one, None where none is like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def nearest_path(path: str, known: Iterable[str], separator: str) -> str | None:
    """The known path that is most like this one, or else the one whose last part is: the rest may be wrong."""
    known = list(known)
    leaves = {each.rpartition(separator)[2]: each for each in reversed(known)}
    return nearest(path, known) or leaves.get(nearest(path.rpartition(separator)[2], leaves, cutoff=0.8) or "")


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``; did you mean 'maxpool'?``, or nothing where no word is near."""
    guess = nearest(word, known, cutoff)
    return f"; did you mean {guess!r}?" if guess else ""


def or_all(word: str, known: Iterable[str]) -> str:
    """The nearest word; where none is near, all of them."""
    known = list(known)
    return did_you_mean(word, known) or f"; there are {', '.join(known)}"
