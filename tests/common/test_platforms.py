"""What Windows lacks, nothing needs when it is imported."""

from __future__ import annotations

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys
import filelock, psutil  # they have code of their own for each system
sys.modules["fcntl"] = sys.modules["resource"] = None
floors = ["common", "runs", "experiment", "images", "weights", "compare", "tune", "report", "commands"]
packages = [importlib.import_module(f"lightning_vgg.{floor}") for floor in floors]
modules = {module.name for each in packages for module in pkgutil.iter_modules(each.__path__, f"{each.__name__}.")}
modules.remove("lightning_vgg.tune.lightning_trial")  # it trains
for module in ("lightning_vgg.cli", "lightning_vgg.api", "keras_reference", "parity_tests", *modules):
    importlib.import_module(module)
print(len(modules), sorted({"torch", "keras", "tensorflow"} & set(sys.modules)))
"""


def test_the_floors_without_a_framework_can_be_imported_on_windows() -> None:
    said = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    number, _, frameworks = said.stdout.partition(" ")
    assert said.returncode == 0, said.stderr
    assert int(number) > 40 and frameworks == "[]\n"
