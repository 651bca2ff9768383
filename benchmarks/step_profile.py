"""Where the time of one training step goes, by torch's profiler, in fp32 and bf16.

    python benchmarks/step_profile.py -c configs/vgg/fast.yaml

The network of a configuration on random images, in this process. The convolutions' rate is that of the arithmetic they
need (forwards, and twice that backwards), as a share of that of the fastest product of two large matrices.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from common import matrix_peak, publish, training_flops, training_step
from torch.profiler import ProfilerActivity, profile

from lightning_vgg.experiment.parsing import read_experiment
from lightning_vgg.runs.machine import keep_freed_memory
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.optim import build_optimizer

KINDS = {
    "convolution": "convolutions",
    "batch_norm": "batch norm",
    "max_pool": "max pooling",
    "random_": "dropout's masks",
    "relu": "activations",
    "gelu": "activations",
    "threshold": "activations",
    "adam": "optimizer",
    "addmm": "matrix products",
    "::mm": "matrix products",
    "copy_": "casts and copies",
}
"""Part of an operation's name -> what it is for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, type=Path, help="of an experiment")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    keep_freed_memory()  # as the product's programs do
    figures: dict[str, Any] = {}
    rows = []
    for precision in ("32-true", "bf16-mixed"):
        found = figures[precision] = profiled(read_experiment(options.config), precision, options.steps)
        total = sum(found["seconds"].values())
        rows.append([precision, "all", "100 %", f"{total * 1e3:.0f}"])
        rows += [
            [precision, kind, f"{seconds / total:.1%}", f"{seconds * 1e3:.0f}"]
            for kind, seconds in found["seconds"].items()
        ]
        rate, peak = found["convolutions_flops"], found["matrix_peak"]
        rows.append([precision, "convolutions, of the matrix peak", f"{rate / peak:.0%}", ""])
    name = options.config.stem
    columns = ["precision", "what", "share", "ms"]
    publish(f"step_profile_{name}", f"One training step of {name}", columns, rows, {"precisions": figures})


def profiled(config: Any, precision: str, steps: int) -> dict[str, Any]:
    """Seconds of a step by kind, the longest first, and FLOP/s."""
    size, batch = config.data.image_size, config.data.batch_size
    model = VGGClassifier(config.model, size, 10)
    optimizer = build_optimizer(model.network, config.model.optimizer, model.semantics)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step() -> None:
        training_step(model.network, optimizer, images, labels, precision)

    step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            step()
    spent: Counter[str] = Counter()
    for event in recorded.key_averages():
        kind = next((kind for part, kind in KINDS.items() if part in event.key), "the rest")
        spent[kind] += event.self_cpu_time_total / 1e6 / steps
    return {
        "batch": batch,
        "seconds": dict(spent.most_common()),
        "convolutions_flops": training_flops(model.plan) * batch / spent["convolutions"],
        "matrix_peak": matrix_peak(precision),
    }


if __name__ == "__main__":
    main()
