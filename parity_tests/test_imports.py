"""Both frameworks in one process: no order of imports crashes, once ``keras_reference`` has been imported first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# What kills a process without the cure is the first optimizer of torch, after TensorFlow.
WORK = (
    "import torch, keras\n"
    "torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)\n"
    "assert keras.ops.matmul([[1.0]], [[2.0]]) == 2\n"
)
# What can differ is which package loads a framework first, its own or the one that brings it along (lightning torch,
# keras tensorflow), and where keras_reference stands: before both, between them, or last.
ORDERS = [
    pytest.param("keras_reference tensorflow torch", marks=pytest.mark.thorough),
    pytest.param("keras_reference lightning keras", marks=pytest.mark.thorough),
    pytest.param("torch keras_reference.module lightning_vgg.training.module", marks=pytest.mark.thorough),
    "lightning_vgg.training.module keras_reference.module torch",
]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_no_order_of_imports_crashes(order: str) -> None:
    rest = "import torch, lightning, tensorflow, keras\n"
    result = run("".join(f"import {name}\n" for name in order.split()) + rest + WORK)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])


@pytest.mark.slow
def test_without_the_cure_the_process_dies() -> None:
    """If this fails the frameworks get along by themselves, and the cure in keras_reference can go."""
    result = run("import os\nos.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'\nimport tensorflow, torch\n" + WORK)
    assert result.returncode == -11, result.stderr[-2000:]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("keras_reference.module", ("torch", "lightning", "parity_tests")),
        ("lightning_vgg.training.lightning_cli", ("tensorflow", "keras", "keras_reference", "parity_tests")),
    ],
)
def test_each_side_loads_its_own_framework_only(module: str, forbidden: tuple[str, ...]) -> None:
    result = run(f"import sys, {module}\nprint([name for name in {forbidden} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr
