"""What all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs"

# A key in the environment would send the tests' runs to somebody's account.
for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
    os.environ.pop(name, None)
os.environ["NETRC"] = os.devnull


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


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real images and weights."""
    folder = os.environ.get("LIGHTNING_VGG_TEST_DATA")
    if folder is None:
        pytest.skip("LIGHTNING_VGG_TEST_DATA does not name a folder with data/cifar10-jpeg.tar.xz")
    return Path(folder)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``lightning-vgg ARGUMENTS`` as a user would, in a working folder of its own."""
    return run_in(tmp_path)


def run_in(folder: Path) -> Command:
    def run(*arguments: str | Path, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [Path(sys.executable).parent / "lightning-vgg", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result

    return run


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
