"""No order of imports crashes, as long as the cure of ``parity_tests.frameworks`` comes where both meet."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

WORK = (
    "import torch, keras\n"
    "torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)\n"
    "keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)]).predict([[1.0]], verbose=0)\n"
)
ORDERS = list(itertools.permutations(["torch", "lightning", "tensorflow", "keras"]))


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_no_import_order_crashes_behind_the_cure(order: tuple[str, ...]) -> None:
    code = "import parity_tests.frameworks\n" + "".join(f"import {name}\n" for name in order) + WORK
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_packages_of_each_side_load_only_their_own_framework() -> None:
    for package, forbidden in (
        ("keras_reference.train", ("torch", "lightning", "parity_tests")),
        ("lightning_vgg.experiment_cli", ("tensorflow", "keras", "keras_reference", "parity_tests")),
    ):
        code = f"import sys, {package}\nprint([name for name in {forbidden} if name in sys.modules])"
        output = subprocess.check_output([sys.executable, "-c", code], text=True, stderr=subprocess.DEVNULL)
        assert output.strip() == "[]", (package, output)
