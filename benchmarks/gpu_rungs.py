"""Rungs of the parity ladder with torch on the GPU, for gpu.py: Keras on jax or torch in place of TensorFlow.

    KERAS_BACKEND=jax python benchmarks/gpu_rungs.py --root IMAGES.tar.xz

Those of float32. Float64, fifty steps and the whole run are left to ``lightning-vgg parity``, which runs on the CPU
with TensorFlow.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common import CONFIGS, DEVICE, add_images, benchmark_parser, image_settings

from lightning_vgg.experiment.arguments import as_arguments
from lightning_vgg.experiment.parsing import parse_experiment

if TYPE_CHECKING:
    from parity_tests.ladder import Ladder, Report

IMAGES = 512
SMALL = {"model.network.filters": [8, 16], "model.network.units": [16]}


def main() -> None:
    parser = benchmark_parser("gpu_rungs", __doc__)
    add_images(parser)
    parser.add_argument("--quick", action="store_true", help="of a small network")
    options = parser.parse_args()
    figures = climb(options)
    options.output.write_text(json.dumps(figures, indent=2) + "\n")


def climb(options: argparse.Namespace) -> dict[str, Any]:
    from keras_reference.backend import describe_backend
    from lightning_vgg.images.dataset import load_dataset
    from parity_tests.ladder import Ladder, Rung, failed

    settings = {**image_settings(options.root, IMAGES), **(SMALL if options.quick else {})}
    experiment = parse_experiment(as_arguments(CONFIGS / "vgg" / "base.yaml", settings))
    reports = []
    for report in rungs(Ladder(experiment, load_dataset(experiment.data), DEVICE.type)):
        print(f"{report.name}, {report.precision}: {report.measured:.1e}", flush=True)
        reports.append(report)
    found = [report for report in reports if isinstance(report, Rung)]
    backend = describe_backend()
    return {
        "backend": backend["backend"],
        "device": backend["device"],
        "versions": backend["versions"],
        "rungs": [rung.as_dict() for rung in found],
        "reported": [report.as_dict() for report in reports if not isinstance(report, Rung)],
        "passed": len(found) - len(failed(found)),
    }


def rungs(ladder: Ladder) -> Iterator[Report]:
    yield ladder.specification()
    yield ladder.dropout()
    yield ladder.forward("float32")
    yield ladder.loss("float32")
    yield ladder.steady_gradients()
    yield ladder.gradients("float32")
    yield ladder.frozen("float32")
    yield ladder.clipping("float32")
    for name in ladder.optimizers():
        yield from ladder.one_step(name)


if __name__ == "__main__":
    main()
