"""Trainings on many machines: every one a task of a Dask cluster, whose workers share a file system with this machine.

Dask is the scheduler: it hands out the tasks, and gives those of a worker that died to another one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from filelock import Timeout

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.locks import file_lock
from lightning_vgg.compare.jobs import Job, Watcher, last_words, launch

_LOOK_EVERY = 0.2
"""Seconds."""
_ANSWERS_WITHIN = 10
"""Seconds that a scheduler has to answer."""
_GRACE = 30.0
"""Seconds that a training has to write its files after a signal to stop."""


def run_on_cluster(jobs: Iterable[Job], address: str, folder: Path, watcher: Watcher) -> None:
    """Run all jobs as tasks of a cluster, whether or not some fail.

    Args:
        jobs: in the order in which they start; paths in them are absolute.
        address: of Dask's scheduler, such as ``tcp://login:8786``.
        folder: of the comparison; a file in it tells the workers to stop.
        watcher: is called.

    Raises:
        ExperimentError: no scheduler answers.
    """
    from distributed import Client, wait

    try:
        client = Client(address, timeout=_ANSWERS_WITHIN)
    except (OSError, ValueError) as error:
        raise ExperimentError(f"--scheduler: no Dask scheduler answers at {address} ({error})") from None
    stop = folder / ".stop"
    stop.unlink(missing_ok=True)
    with client:
        # Its own key for every attempt: a repeated command must not be given the result of the last one.
        begun = time.time()
        waiting = {
            client.submit(train, job, Path.cwd(), stop, key=f"{job.name} {time.time_ns()}", pure=False): job
            for job in jobs
        }
        started: dict[str, float] = {}
        try:
            while waiting:
                time.sleep(_LOOK_EVERY)
                for job in waiting.values():
                    if job.name not in started and job.log.exists() and job.log.stat().st_mtime >= begun:
                        started[job.name] = time.monotonic()
                        watcher.started(job)
                for future in [future for future in waiting if future.done()]:
                    job = waiting.pop(future)
                    if job.made():
                        watcher.made(job, time.monotonic() - started.get(job.name, time.monotonic()))
                    elif future.status == "finished":
                        watcher.failed(job, last_words(job.log, future.result()))
                    else:
                        watcher.failed(job, f"no worker finished it: {future.exception()}")
                watcher.tick()
        finally:
            if waiting:
                stop.touch()
                with contextlib.suppress(TimeoutError):
                    wait(list(waiting), timeout=2 * _GRACE)


def train(job: Job, working_folder: Path, stop: Path) -> int:
    """The task of one job, on a worker; returns the exit status of its process.

    A worker that is killed leaves its process running. The lock is that process's, too, so that whoever takes over the
    job waits for it, and finds what it has made.
    """
    descriptors: list[int] = []
    job.log.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(job.log.with_suffix(".lock"), timeout=_LOOK_EVERY, on_acquired=descriptors.append)
    while not stop.exists():
        with contextlib.suppress(Timeout), lock:
            return 0 if job.made() else _attend(launch(job, descriptors[0], working_folder), stop)
    return 0


def _attend(process: psutil.Popen, stop: Path) -> int:
    """Wait until a process ends, or end it; returns its exit status."""
    while process.poll() is None:
        if stop.exists():
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(_GRACE)
            process.kill()
        time.sleep(_LOOK_EVERY)
    return process.returncode
