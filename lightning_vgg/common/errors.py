"""The one kind of error that the user can correct, and the report of every other."""

from __future__ import annotations

import traceback
from pathlib import Path


class ExperimentError(ValueError):
    """The user can correct this. The message names the thing, the place and the remedy.

    The command line prints it without a traceback.
    """


class DataError(ExperimentError):
    """Something is wrong with the user's data. The message names the thing, the place and the remedy."""


class Diverged(ExperimentError):
    """The loss of a training is not finite: in a search such settings are to be expected."""

    @classmethod
    def in_step(cls, step: int, epoch: int, checkpoint: Path | None) -> Diverged:
        """The training loss is not finite; step and epoch count from 1, ``checkpoint`` is the last intact one."""
        sound = f"the last intact checkpoint is {checkpoint}" if checkpoint else "there is no earlier checkpoint"
        return cls(
            f"the training loss is not finite in step {step} (epoch {epoch}); {sound}. "
            "Lower model.optimizer.learning_rate, or clip gradients by --trainer.gradient_clip_val 1"
        )


def explain_bug(error: Exception) -> str:
    """What a command prints for an unexpected exception: that it is a bug of ours, and where it happened."""
    where = "".join(traceback.format_exception(error))
    return f"this is a bug of this project, not yours; please report it with these lines:\n{where}"
