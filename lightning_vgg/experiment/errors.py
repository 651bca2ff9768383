"""The one kind of error that is the user's to mend."""


class ExperimentError(ValueError):
    """Something in the experiment cannot be. The message names the thing, the place and the remedy.

    The command line prints it without a traceback.
    """


class Diverged(ExperimentError):
    """A training whose loss is not finite: settings that lead nowhere, which a search may well meet."""
