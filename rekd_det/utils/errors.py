"""The error that the command-line tools print without a traceback."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names it and says how to mend it."""
