"""The process's memory, in processes of their own: what is set for one stays set."""

from __future__ import annotations

import platform

import pytest
from conftest import printed_by

FAULTS_OF_LARGE_BLOCKS = """
import resource

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * (64 << 20)  # 16,384 pages, had from the C library, written and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""

BY_WHAT = {
    "function": "from lightning_vgg.runs.machine import keep_freed_memory; keep_freed_memory()",
    "fit": "from lightning_vgg.training.lightning_cli import run_command\n"
    "with contextlib.suppress(ExperimentError): run_command('fit', ['--model.network.filters', '[0]'])",
    "features": "from lightning_vgg import extract_features\n"
    "with contextlib.suppress(ExperimentError): extract_features({'model.backbone.weights': 'nowhere.safetensors'})",
    "Keras": "from keras_reference.backend import prepare_keras; prepare_keras('32-true', 0)",
}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize("by", BY_WHAT)
def test_freed_memory_is_had_again_without_page_faults(by: str) -> None:
    code = (
        "import contextlib\nfrom lightning_vgg.common.errors import ExperimentError\n"
        f"{FAULTS_OF_LARGE_BLOCKS}\n"
        f"print(page_faults())\n{BY_WHAT[by]}\npage_faults()\nprint(page_faults())"
    )
    said = printed_by(code).split()
    without, kept = int(said[0]), int(said[-1])
    assert without > 10_000
    assert kept < 1_000
