"""The error that the command-line tools print without a traceback."""


class InputError(ValueError):
    """A mistake in the user's input; the message names it and says how to fix it."""
