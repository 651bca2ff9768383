"""The one kind of error that is the user's to mend, and the words for every other."""

from __future__ import annotations

import traceback


class ExperimentError(ValueError):
    """Something in the experiment cannot be. The message names the thing, the place and the remedy.

    The command line prints it without a traceback.
    """


class Diverged(ExperimentError):
    """A training whose loss is not finite: settings that lead nowhere, which a search may well meet."""


def explain_bug(error: Exception) -> str:
    """What a command says of an exception that should not have got out: whose fault it is, and where it happened."""
    where = "".join(traceback.format_exception(error))
    return f"this is a bug of this project, not yours; please report it with these lines:\n{where}"
