"""The one kind of error that is the user's to mend, and the words for every other."""

from __future__ import annotations

import traceback
from pathlib import Path


class ExperimentError(ValueError):
    """Something in the experiment cannot be. The message names the thing, the place and the remedy.

    The command line prints it without a traceback.
    """


class Diverged(ExperimentError):
    """A training whose loss is not finite: settings that lead nowhere, which a search may well meet."""

    @classmethod
    def in_step(cls, step: int, epoch: int, checkpoint: Path | None) -> Diverged:
        """The training loss, in a step and an epoch that count from 1; ``checkpoint`` is the last sound one."""
        sound = f"the last sound checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint before it"
        return cls(
            f"the training loss is not finite in step {step} (epoch {epoch}); {sound}. "
            "Lower model.optimizer.learning_rate, or clip gradients by --trainer.gradient_clip_val 1"
        )


def explain_bug(error: Exception) -> str:
    """What a command says of an exception that should not have got out: whose fault it is, and where it happened."""
    where = "".join(traceback.format_exception(error))
    return f"this is a bug of this project, not yours; please report it with these lines:\n{where}"
