"""Both frameworks in this process, in the order that does not crash."""

import contextlib
import io
import os
from pathlib import Path

import pytest

import parity_tests.frameworks  # noqa: F401
from keras_reference import cli as keras_cli
from lightning_vgg import cli
from lightning_vgg.common.errors import ExperimentError
from parity_tests import whole_run


@pytest.fixture
def programs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs without the seconds in which a process of its own loads a framework."""

    def run_program(program: str, arguments: list[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            status = {"lightning-vgg": cli, "keras-reference": keras_cli}[program].run(arguments)
        if status:
            raise ExperimentError(f"{program} fit failed")

    monkeypatch.setattr(whole_run, "run_program", run_program)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the real images and weights."""
    folder = os.environ.get("LIGHTNING_VGG_TEST_DATA")
    if folder is None:
        pytest.skip("LIGHTNING_VGG_TEST_DATA does not name a folder with data/cifar10-jpeg.tar.xz")
    return Path(folder)
