"""What all tests share."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs"
BIN = Path(sys.executable).parent

# A key in the environment would send the tests' runs to somebody's account.
for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
    os.environ.pop(name, None)
os.environ["NETRC"] = os.devnull


LONG_FILES = ("test_examples.py", "test_chaos.py", "test_ladder.py", "test_processes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with single tests of half a minute and more come first: at the end, one worker would wait for the other."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(autouse=True)
def wandb_variables() -> Iterator[None]:
    """W&B is told of its mode by a variable, which must not outlive the test in this process."""
    before = dict(os.environ)
    yield
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def signal_handlers() -> None:
    """A training in this process installs its own, which the next test must not find."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


Finished = subprocess.CompletedProcess[str]
Command = Callable[..., Finished]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real images and weights."""
    folder = os.environ.get("LIGHTNING_VGG_TEST_DATA")
    if folder is None:
        pytest.skip("LIGHTNING_VGG_TEST_DATA does not name a folder with data/cifar10-jpeg.tar.xz")
    return Path(folder)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``lightning-vgg ARGUMENTS`` in this process, in a working folder of its own."""
    return run_here(tmp_path)


def run_here(folder: Path, program: str = "lightning-vgg") -> Command:
    """Run commands in this process, which has loaded the frameworks already.

    What they print and their status come back as those of a process would. The first argument is split into words as a
    shell splits it, the others are a word each. Where the process itself is tested, or killed, there is `run_in`.
    """

    def run(line: str, *arguments: str | Path, status: int = 0, **environment: str) -> Finished:
        cli = importlib.import_module(f"{program.replace('-', '_')}.cli")
        words, output, error = [*shlex.split(line), *map(str, arguments)], io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(folder),
            mock.patch.dict(os.environ, environment),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(error),
        ):
            try:
                found = cli.run(words)
            except SystemExit as end:  # of argparse, after --print_config
                found = end.code or 0
        assert found == status, output.getvalue() + error.getvalue()
        return subprocess.CompletedProcess(words, found, output.getvalue(), error.getvalue())

    return run


def run_in(folder: Path, program: str = "lightning-vgg") -> Command:
    """Run commands as a user does, each in a process of its own; the arguments are those of `run_here`."""

    def run(line: str, *arguments: str | Path, status: int = 0, **environment: str) -> Finished:
        result = subprocess.run(
            [BIN / program, *shlex.split(line), *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result

    return run


def printed_by(code: str) -> str:
    """What a fresh interpreter prints that runs this code: of imports, of what is set once in a process."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def wandb_records(run: Path) -> list[dict[str, Any]]:
    """What the one offline W&B run of a run folder holds."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    inspect = [BIN / "wandb", "leet", "inspect", "--json", file]
    return [json.loads(line) for line in subprocess.check_output(inspect, text=True).splitlines()]


@pytest.fixture
def keras() -> Iterator[Any]:
    """Keras in this process, back in float32 afterwards."""
    import keras_reference.backend as backend

    backend.prepare_keras("32-true", seed=0)
    yield backend.keras
    backend.prepare_keras("32-true", seed=0)


def history_without_seconds(run: Path) -> list[str]:
    """The lines of history.csv, the one column that differs from run to run cut off."""
    return [line.rpartition(",")[0] for line in (run / "history.csv").read_text().splitlines()]


def only_run(folder: Path) -> Path:
    """The one run folder below ``folder``."""
    (config,) = folder.glob("runs/*/*/config.yaml")
    return config.parent
