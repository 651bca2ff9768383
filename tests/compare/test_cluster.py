"""A comparison on a Dask cluster of two real workers, one of which is killed in the middle of a training."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from conftest import Command
from test_compare import fake_comparison

T = TypeVar("T")
ARMS = ("lightning-keras", "lightning-torch", "keras", "lightning-keras-rounded")


def wait_for(condition: Callable[[], T | None]) -> T:
    """What a condition returns as soon as it is true."""
    limit = time.monotonic() + 90
    while not (value := condition()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    return value


def training_of(worker: psutil.Process) -> psutil.Process | None:
    """The training that a worker has begun; a worker starts other programs, too, for a moment."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return next((child for child in worker.children() if "fit" in child.cmdline()), None)
    return None


def trainings_of(workers: Sequence[psutil.Process]) -> list[psutil.Process] | None:
    """Those that run at the same time, and half a second later, too; None until each worker has one."""
    before = [training_of(worker) for worker in workers]
    time.sleep(0.5)
    found = [training for worker in workers if (training := training_of(worker)) is not None]
    return found if found == before else None


class Cluster:
    """A scheduler, and workers that are started one by one; each is a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes = [self.start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", self.file)]
        wait_for(lambda: self.file.exists() and self.file.stat().st_size > 0)
        self.address = str(json.loads(self.file.read_text())["address"])

    def worker(self) -> psutil.Process:
        number = len(self.processes)
        folder = self.folder / f"worker{number}"
        folder.mkdir()
        arguments = (self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", f"worker{number}")
        self.processes.append(self.start("worker", *arguments, folder=folder))
        return psutil.Process(self.processes[-1].pid)

    def start(self, kind: str, *arguments: str | Path, folder: Path | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, arguments)]
        with (self.folder / f"{kind}.txt").open("ab") as output:
            return subprocess.Popen(command, cwd=folder or self.folder, stdout=output, stderr=output)

    def compare(self, command: list[str], folder: Path) -> subprocess.Popen[str]:
        command = [*command, "--scheduler", self.address]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    this = Cluster(folder)
    yield this
    this.stop()


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_training_alone(cluster: Cluster, tmp_path: Path) -> None:
    workers = [cluster.worker(), cluster.worker()]
    process = cluster.compare(fake_comparison(tmp_path, seeds=1), tmp_path)
    trainings = wait_for(lambda: trainings_of(workers))
    # The machine of the one dies with what runs on it; the other goes on.
    lost = trainings[0].cmdline()
    workers[0].kill()
    trainings[0].kill()
    (tmp_path / "slow").unlink()
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0 and output.endswith("published\n"), output + error
    arms = json.loads((tmp_path / "runs/vgg/compare-defaults/comparison.json").read_text())["arms"]
    assert {name: list(seeds) for name, seeds in arms.items()} == {name: ["0"] for name in ARMS}
    name = lost[lost.index("--name") + 1].removeprefix("compare-defaults_").replace("_seed", " seed ")
    assert output.count(f"{name}: test_acc 50.00%") == 1


@pytest.mark.slow
def test_what_a_dead_worker_left_running_is_waited_for_and_a_signal_stops_the_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    worker = cluster.worker()
    process = cluster.compare(fake_comparison(tmp_path, seeds=1), tmp_path)
    orphan = wait_for(lambda: training_of(worker))
    worker.kill()  # the worker alone: its training goes on, and keeps the lock
    cluster.worker()
    time.sleep(1)
    assert orphan.is_running() and not list(tmp_path.glob("runs/vgg/*/run.json"))
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGINT, output + error
    assert error == f"stopped; the same command continues {tmp_path}/runs/vgg/compare-defaults\n"
    orphan.kill()
    again = cluster.compare(fake_comparison(tmp_path, seeds=1), tmp_path)
    (tmp_path / "slow").unlink()
    output, error = again.communicate(timeout=90)
    assert again.returncode == 0 and output.endswith("published\n"), output + error


def test_a_scheduler_that_does_not_answer_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_vgg.compare.cluster._ANSWERS_WITHIN", 0.2)
    flags = "--data.source digits --compare.twin false --compare.ladder false --compare.ablation false"
    error = command(f"compare {flags} --compare.horizon false --scheduler tcp://127.0.0.1:9", status=2).stderr
    assert "--scheduler: no Dask scheduler answers at tcp://127.0.0.1:9" in error
