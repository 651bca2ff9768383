"""Processes, one after the other or a few at once; none is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil
from filelock import Timeout

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.locks import file_lock

PROGRAMS = {"lightning": "lightning-vgg", "keras": "keras-reference"}
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
        leftover: the run folder of an attempt that was stopped or failed; it is removed when the job starts.
    """

    name: str
    command: Sequence[str | Path]
    log: Path
    made: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    leftover: Path | None = None


def program(framework: str) -> str:
    """The command line of a framework."""
    return str(Path(sys.executable).parent / PROGRAMS[framework])


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
                running[launch(job, held)] = job, time.monotonic()
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


def launch(job: Job, held: int, folder: Path | None = None) -> psutil.Popen:
    """Start a job's process.

    Args:
        job: whose.
        held: a descriptor that it keeps open.
        folder: in which it works; None for that of this process.
    """
    if job.leftover is not None:
        shutil.rmtree(job.leftover, ignore_errors=True)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        return psutil.Popen(
            list(map(str, job.command)),
            cwd=folder,
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


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM raise KeyboardInterrupt with the signal's number."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind either
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold the folder for this process; yields the descriptor of a second lock, for its jobs to inherit.

    A command that is killed cannot stop its jobs. They continue in their run folders and keep that lock, so a repeated
    command waits for them, and finds their results. On Windows, where no lock is inherited, they
    have to be ended by hand.

    Raises:
        ExperimentError: another process holds it.
    """
    descriptors: list[int] = []
    of_jobs = file_lock(folder / ".jobs", on_acquired=descriptors.append)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(file_lock(folder / ".lock", timeout=0))
        except Timeout:
            raise ExperimentError(
                f"another process is working on {folder}: wait for it, or give another --name"
            ) from None
        try:
            held.enter_context(of_jobs.acquire(timeout=0))
        except Timeout:
            print("waiting for the trainings that a killed attempt left running", flush=True)
            held.enter_context(of_jobs)
        yield descriptors[0]
