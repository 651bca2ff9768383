"""Processes, one after the other or a few at once; none is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

_LOOK_EVERY = 0.2
"""Seconds."""
_GRACE = 30.0
"""Seconds that a process has to write its files after a signal to stop."""


@dataclass(frozen=True)
class Job:
    """A process that is to make something.

    Attributes:
        name: for people.
        command: program and arguments.
        log: the file that gets what the process says; an earlier attempt's is replaced.
        made: whether the result of the process exists.
        environment: variables beside those of this process.
    """

    name: str
    command: Sequence[str | Path]
    log: Path
    made: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)


class Watcher(Protocol):
    """Is called when jobs start and end."""

    def started(self, job: Job) -> None: ...

    def made(self, job: Job, seconds: float) -> None: ...

    def failed(self, job: Job, words: str) -> None: ...

    def tick(self) -> None:
        """A fraction of a second has passed."""


def run_jobs(jobs: Iterable[Job], at_once: int, watcher: Watcher, held: int) -> None:
    """Run all jobs, at most ``at_once`` at a time, whether or not some fail.

    No process is left behind, also after an exception or an interruption.

    Args:
        jobs: in the order in which they start.
        at_once: how many.
        watcher: is called.
        held: a descriptor that each process has open as long as it lives.
    """
    waiting = list(jobs)
    running: dict[psutil.Popen, tuple[Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[_start(job, held)] = job, time.monotonic()
                watcher.started(job)
            time.sleep(_LOOK_EVERY)
            for process in [process for process in running if process.poll() is not None]:
                job, since = running.pop(process)
                if job.made():
                    watcher.made(job, time.monotonic() - since)
                else:
                    watcher.failed(job, last_words(job.log, process.returncode))
            watcher.tick()
    finally:
        _stop(list(running))


def _start(job: Job, held: int) -> psutil.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        return psutil.Popen(
            list(map(str, job.command)),
            env={**os.environ, **job.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(held,) if os.name == "posix" else (),
            start_new_session=True,  # so that Ctrl-C reaches this process alone, which then stops the others
        )


def _stop(processes: list[psutil.Popen]) -> None:
    """Ask all to end, wait, and kill those that do not; their children included."""
    family: set[psutil.Process] = set()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                family |= {process, *process.children(recursive=True)}
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(member)
        psutil.wait_procs(processes, _GRACE)


def last_words(log: Path, status: int) -> str:
    """How a process ended, and its error message, or the last line of what it said.

    Args:
        log: what it said.
        status: as subprocess gives it: negative for a signal.
    """
    ending = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    text = log.read_text(errors="replace").strip()
    message = re.search(r"^[\w-]+: error: (.*)", text, re.MULTILINE | re.DOTALL)
    words = message[1] if message else text.rpartition("\n")[2]
    return f"{ending}: {words}" if words else f"{ending}, without any output"
