"""Child processes that end with the study, and a lock that they hold as long as they live."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rekd_det.utils.errors import InputError

_LAST_WORDS = 5
_CAUSE = re.compile(r"(\[rank\d+\]: )?(error: |(?!.*ChildFailedError)[\w.]+(Error|Exception): )")
#: seconds without output after which a program counts as hung; a training logs every few dozen iterations
SILENCE_S = 3600.0
_LOOK_S = 1.0
#: seconds that a hung program has to end its own processes; torchrun kills its workers after 30
_PATIENCE_S = 40.0


class RunFailed(RuntimeError):
    """A program ended with an error; the message is its last output."""


class Stopped(RuntimeError):
    """A program was not started, or ended, because the study was stopped."""


class Processes:
    """Runs programs, several at once from as many threads, until it is stopped.

    Args:
        lock: file descriptor that every program inherits, see :func:`hold`.
        silence_s: a program that writes nothing for as many seconds is killed.
    """

    def __init__(self, lock: int, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._inherited = (lock,)
        self._guard = threading.Lock()
        self._alive: set[subprocess.Popen] = set()
        self._stopped = False

    def run(self, command: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        """Run a program to its end; its output is appended to ``output``.

        Raises:
            RunFailed: its exit status is not 0, or it hung.
            Stopped: :meth:`stop` was called.
        """
        with output.open("a", encoding="utf-8") as file:
            start = file.tell()
            with self._guard:
                if self._stopped:
                    raise Stopped
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,  # so that it can be ended along with its data workers
                    pass_fds=self._inherited,
                )
                self._alive.add(process)
            status = self._wait(process, output)
            with self._guard:
                self._alive.discard(process)
                if self._stopped:
                    raise Stopped
        if status is None:
            raise RunFailed(
                f"hung: it had no output for {self._silence_s / 60:g} min and was killed. Its last output: "
                f"{_last_words(output, start)}"
            )
        if status != 0:
            how = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            raise RunFailed(f"{how}:\n{_last_words(output, start)}")

    def _wait(self, process: subprocess.Popen, output: Path) -> int | None:
        """The exit status; None where the program was killed because its output did not grow."""
        size, since = -1, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(_LOOK_S, self._silence_s))
            if (now := output.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since >= self._silence_s and not _is_queued(output):
                # torchrun and srun end their workers, which are in sessions of their own; a hung program may not react.
                for number, patience in ((signal.SIGTERM, _PATIENCE_S), (signal.SIGKILL, None)):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(patience)
                        break
                return None

    def stop(self) -> None:
        """End what runs, and start nothing any more."""
        with self._guard:
            self._stopped = True
            for process in self._alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)


def _is_queued(output: Path) -> bool:
    """Whether Slurm has not started the program yet: its last word is that the job waits for resources."""
    with output.open("rb") as file:
        file.seek(max(output.stat().st_size - 500, 0))
        last = file.read().decode(errors="replace").strip().rpartition("\n")[2]
    return last.startswith("srun: job") and "queued" in last


def _last_words(output: Path, start: int) -> str:
    with output.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    last = said[-_LAST_WORDS:]
    # torchrun ends with a page about its processes; what went wrong in one of them stands before it.
    causes = [line for line in said if _CAUSE.match(line)]
    if causes and causes[-1] not in last:
        last.append(causes[-1])
    return "\n".join(last) or "it said nothing"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Keep other studies out of a folder.

    Yields:
        The lock's file descriptor. A program that inherits it keeps the lock: a study that was killed outright must not
        be started again while its trainings still write.

    Raises:
        InputError: another study, or a program that one has left behind, is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"a study is at work in '{folder}', or trainings that it left running: wait for them, or end them "
                f"(fuser '{folder}/.lock' lists them)"
            ) from error
        yield file.fileno()
