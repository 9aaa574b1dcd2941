"""What a forged file holds."""


class Call:
    """Pickles as a call, and as a state that is set on its result."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced
