"""How torch finds out, in every step of an optimizer, that this machine has no GPU."""

from __future__ import annotations

import os

import torch

NVML_VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""1: torch asks NVIDIA's management library, which does not keep a process from forking; else CUDA itself."""


def make_cuda_checks_cheap() -> None:
    """Where there is no GPU, let torch ask CUDA.

    Lightning sets the variable to 1 when it is imported. Without a driver, torch 2.14 then searches the disk for NVML's
    file in each step of an optimizer: 80 µs and more, where CUDA's own answer takes 2 µs.
    """
    if not torch.cuda.is_available():
        os.environ[NVML_VARIABLE] = "0"
