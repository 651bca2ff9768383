"""``lightning-vgg parity --torch my_net.py:Net --keras my_net.keras``: models that the user has written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.runs.folder import atomic_write
from parity_tests.tables import ladder_table, wide_console

if TYPE_CHECKING:
    from parity_tests.any_pair import PairReport


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(
        f"lightning-vgg {command}",
        "Compare a torch module and a Keras model of the same job in float64: output, loss, statistics of batch norm, "
        "gradients and steps. Exit status 1 if they differ; the first layer that does is named.",
    )
    parser.add_argument("--torch", required=True, help="my_net.py:Net or package.module:make_net")
    parser.add_argument("--keras", required=True, help="a .keras or .h5 file, or my_net.py:make_net")
    parser.add_argument("--map", type=Path, help="a YAML file of torch's names of layers and Keras's, where asked for")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.read(args)

    from parity_tests.any_pair import compare_pair
    from parity_tests.user_models import load_keras_model, load_torch_module

    names = _read_map(options.map) if options.map else None
    report = compare_pair(load_torch_module(options.torch), load_keras_model(options.keras), names=names)
    print_report(report, f"{options.torch} and {options.keras}")
    if options.json is not None:
        figures = {
            "rungs": [rung.as_dict() for rung in report.rungs],
            "culprit": report.culprit,
            "notes": report.notes,
            "layers": report.layers,
            "passed": report.passed,
        }
        with atomic_write(options.json) as file:
            file.write(json.dumps(figures, indent=2).encode() + b"\n")
    if not report.passed:
        sys.exit(1)


def print_report(report: PairReport, title: str) -> None:
    """A table, and the first layer that differs."""
    console = wide_console()
    console.print(ladder_table(list(report.rungs), title))
    for note in report.notes:
        print(f"note: {note}")
    passed = sum(rung.passed for rung in report.rungs)
    print(f"{passed} of {len(report.rungs)} checks passed")
    if report.culprit:
        print(f"first difference: {report.culprit}")


def _read_map(path: Path) -> dict[str, str]:
    import yaml

    try:
        names = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ExperimentError(f"--map: {path}: {error}") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for pair in names.items() for name in pair):
        raise ExperimentError(f"--map: {path} holds no lines such as `layer1.0.bn1: bn_2`")
    return names
