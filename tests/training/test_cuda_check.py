"""What torch asks for a GPU in every step of an optimizer."""

from __future__ import annotations

import ctypes
import os

import pytest
import torch
from conftest import printed_by

from lightning_vgg.training.cuda_check import NVML_VARIABLE, make_cuda_checks_cheap


def test_lightning_has_torch_ask_nvml() -> None:
    """Or the function has no purpose any more."""
    assert printed_by(f"import os, lightning; print(os.environ['{NVML_VARIABLE}'])").split() == ["1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which is asked for as Lightning wants it")
def test_fit_does_not() -> None:
    code = (
        "import contextlib, os\n"
        "from lightning_vgg.common.errors import ExperimentError\n"
        "from lightning_vgg.training.lightning_cli import run_command\n"
        "with contextlib.suppress(ExperimentError): run_command('fit', ['--model.network.filters', '[0]'])\n"
        f"print(os.environ['{NVML_VARIABLE}'])"
    )
    assert printed_by(code).split() == ["0"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which torch asks for once")
def test_no_library_is_searched_for_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NVML_VARIABLE, "1")
    searched: list[str] = []
    load = ctypes.CDLL

    def record(name: str) -> ctypes.CDLL:
        searched.append(name)
        return load(name)

    monkeypatch.setattr(ctypes, "CDLL", record)
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.Adam([weight])
    optimizer.step()
    assert searched or torch.version.cuda is None
    make_cuda_checks_cheap()
    searched.clear()
    optimizer.step()
    assert not searched


def test_a_gpu_is_asked_for_as_lightning_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NVML_VARIABLE, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    make_cuda_checks_cheap()
    assert os.environ[NVML_VARIABLE] == "1"
