"""What a training's history says of how it went wrong, in words, with what usually helps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

GUESSING = 0.01
"""How near a loss has to come to that of guessing, as a share of it, to count as that."""
STEPS = 50
"""Steps after which a network that learns is better than guessing."""
JUMP = 3.0
"""Factor by which a loss exceeds that of the epoch before where gradients have exploded, beyond that of guessing."""

_SMALLER_STEPS = "lower model.optimizer.learning_rate, or clip gradients by --trainer.gradient_clip_val 1"


def hints(history: Sequence[dict[str, float]], classes: int) -> list[str]:
    """What to look at, a sentence or two each; nothing for a training that went well.

    Args:
        history: rows of history.csv.
        classes: of the images; guessing has a cross-entropy of ln(classes).
    """
    found = []
    guessing = math.log(classes)
    losses = [row["train_loss"] for row in history if "train_loss" in row]
    steps = history[-1].get("step", 0) if history else 0
    if losses and steps >= STEPS and losses[-1] >= (1 - GUESSING) * guessing:
        found.append(
            f"the network has not learned: its last training loss, {losses[-1]:.3f}, is no better than guessing's, "
            f"ln({classes}) = {guessing:.3f}. Deep networks without batch norm often do not start: put 'batch norm' "
            "into model.network.conv_block, or try another model.optimizer.learning_rate"
        )
    pairs = enumerate(itertools.pairwise(losses), 2)
    first = next((epoch for epoch, (before, after) in pairs if after > max(JUMP * before, guessing)), None)
    if first is not None:
        found.append(
            f"the training loss jumped from {losses[first - 2]:.3f} to {losses[first - 1]:.3f} in epoch {first}: "
            f"{_SMALLER_STEPS}"
        )
    lost = [row["epoch"] for row in history if not math.isfinite(row.get("val_loss", 0.0))]
    if lost:
        found.append(f"the validation loss is not finite in epoch {lost[0]:.0f}: {_SMALLER_STEPS}")
    return found
