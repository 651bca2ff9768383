"""What the benchmarks share: the machine's description, JSON, and a table."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.recipe import Conv, Dense
from lightning_vgg.runs.machine import processor_name

ROOT = Path(__file__).parent.parent
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))


def backbone_parser(description: str | None) -> argparse.ArgumentParser:
    """Images, and the network whose features are computed or kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    parser.add_argument("--weights", default="none", help="as model.backbone.weights; their values do not matter")
    parser.add_argument("--preprocessing", help="as model.backbone.preprocessing")
    return parser


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def training_flops(plan: NetworkPlan) -> int:
    """Multiplications and additions of convolutions and dense layers for one image in one training step.

    Twice as many backwards as forwards; the first layer has no gradient of its inputs to compute.
    """
    total = 0
    for number, planned in enumerate(plan.layers):
        pixels = planned.output_shape[0] * planned.output_shape[1] if len(planned.output_shape) == 3 else 1
        match planned.layer:
            case Conv(kernel=kernel):
                forward = 2 * pixels * kernel**2 * planned.input_shape[-1] * planned.width
            case Dense():
                forward = 2 * planned.input_shape[-1] * planned.width
            case _:
                continue
        total += forward * (3 if number else 2)
    return total


def training_step(
    network: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor, precision: str = "32-true"
) -> None:
    """As one writes it by hand."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = F.cross_entropy(network(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def matrix_peak(precision: str, seconds: float = 2.0) -> float:
    """FLOP/s of torch's product of two 2048 x 2048 matrices, the best of what fits into ``seconds``."""
    size = 2048
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def bare_loop_speed(root: str, precision: str, *arguments: str) -> float:
    """Images per second of bare_loop.py in a process of its own, median over its epochs."""
    command = [sys.executable, Path(__file__).parent / "bare_loop.py", "--root", root, "--precision", precision]
    return statistics.median(map(float, subprocess.check_output([*command, *arguments], text=True).split()))


def run_folder_speed(command: list[str | Path]) -> float:
    """Images per second of a ``fit``: over the seconds of an epoch's training steps, the median over the epochs.

    Args:
        command: of the product's programs, with its arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = [Path(sys.executable).parent / command[0], *command[1:], "--trainer.default_root_dir", folder]
        subprocess.run(whole, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "offline"})
        (record,) = Path(folder).glob("runs/*/*/run.json")
        return json.loads(record.read_text())["images_per_second"]


def take_turns(name: str, measured: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Images per second of each arm in each turn."""
    speeds: dict[str, list[float]] = {arm: [] for arm in measured}
    for turn in range(turns):
        for arm, measure in measured.items():
            speeds[arm].append(measure())
            print(f"{name}  turn {turn + 1}/{turns}  {arm}: {speeds[arm][-1]:.0f} images/s", flush=True)
    return speeds


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


RATIO_COLUMNS = ["precision", "arm", "ratio", "of all turns", "images/s", "of all turns"]


def ratios_to_bare_loop(precision: str, speeds: dict[str, list[float]]) -> tuple[dict[str, Any], list[list[str]]]:
    """Figures, and rows under RATIO_COLUMNS, of arms that took turns; speeds are images per second.

    The ratio of ``X, augmented`` is that to ``bare loop, augmented``.
    """
    figures, rows = {}, []
    for name, values in speeds.items():
        bare_loop = speeds["bare loop, augmented" if name.endswith(", augmented") else "bare loop"]
        ratios = [value / bare for value, bare in zip(values, bare_loop, strict=True)]
        speed, ratio = spread(values), spread(ratios)
        figures[f"{precision}, {name}"] = {"images_per_second": speed, "ratio_to_bare_loop": ratio}
        rows.append(
            [
                precision,
                name,
                f"{ratio['median']:.3f}",
                f"{ratio['min']:.3f} - {ratio['max']:.3f}",
                f"{speed['median']:.0f}",
                f"{speed['min']:.0f} - {speed['max']:.0f}",
            ]
        )
    return figures, rows


def publish(name: str, title: str, columns: list[str], rows: list[list[str]], figures: dict[str, Any]) -> None:
    """Print a table and write benchmarks/results/NAME.json, or NAME.json in the folder BENCHMARK_RESULTS."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    print(f"written to {path}")
