"""What a forged or damaged file holds."""

import pickle
import pickletools
from pathlib import Path


class Call:
    """Pickles as a call, and as a state that is set on its result."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def remove_storages(path):
    """Take the data out of a checkpoint in torch's old format, and say in its fifth pickle that none follow."""
    with open(path, "rb") as file:
        for _ in range(4):
            list(pickletools.genops(file))
        content = Path(path).read_bytes()[: file.tell()]
    Path(path).write_bytes(content + pickle.dumps([], 2))
    return str(path)
