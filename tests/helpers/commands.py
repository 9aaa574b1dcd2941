"""Run commands in processes of their own. What they say is stdout and stderr together, as in a terminal."""

import os
import subprocess
import sys
from pathlib import Path


def start(*command: object, cwd: Path, **environment: str) -> subprocess.Popen:
    """Start a command whose Python, in a launcher too, is this one."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONWARNINGS": "ignore", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*command: object, cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed."""
    code, output = _finish(start(*command, cwd=cwd, **environment))
    assert code == 0, output[-4000:]
    return output


def fail(*command: object, cwd: Path, status: int | None = None, **environment: str) -> str:
    """The output of a command that must fail, with ``status`` if it is given, by a message and not a traceback."""
    code, output = _finish(start(*command, cwd=cwd, **environment))
    assert code != 0 if status is None else code == status, output[-4000:]
    assert "Traceback" not in output
    return output


def _finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        output = process.communicate(timeout=600)[0]
    finally:
        process.kill()  # where the time was up: nobody else would end it
    return process.returncode, output
