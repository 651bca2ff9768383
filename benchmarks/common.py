"""What the benchmarks share: one way to start a training, to take turns, and to write results down."""

from __future__ import annotations

import argparse
import datetime
import json
import math
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

from lightning_vgg import RunFolder
from lightning_vgg.experiment.arguments import Settings, as_arguments
from lightning_vgg.experiment.network_plan import NetworkPlan
from lightning_vgg.experiment.recipe import Conv, Dense
from lightning_vgg.runs.machine import processor_name

BENCHMARKS = Path(__file__).parent
CONFIGS = BENCHMARKS.parent / "configs"
PROGRAMS = Path(sys.executable).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LESSON = {"model.network.filters": [32, 64, 128], "model.network.units": [256]}
"""The network whose training is timed."""
NETWORKS: dict[str, list[Settings]] = {
    "lesson": [CONFIGS / "vgg" / "base.yaml", LESSON],
    "vgg16": [CONFIGS / "vgg" / "base.yaml", CONFIGS / "vgg" / "vgg16.yaml"],
}
AUGMENTED = {"data.augmentation.flip": True, "data.augmentation.shift": 4, "data.augmentation.cutout": 8}
"""What the bare loop does with --augmented."""


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Of a benchmark that writes ``results/<name>.json`` unless another file is named."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / f"{name}.json")
    return parser


def add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, help="image folder or archive")


def add_backbone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="none", help="as model.backbone.weights; speed does not depend on them")
    parser.add_argument("--preprocessing", help="as model.backbone.preprocessing")


def image_settings(root: str, train_images: int | None = None) -> dict[str, Any]:
    """Images of a folder or archive; with a number of them, so many to train on and none for validation."""
    settings: dict[str, Any] = {"data.source": "folder", "data.root": root}
    if train_images is not None:
        settings |= {"data.train_images": train_images, "data.validation_fraction": 0}
    return settings


def train(program: str, *settings: Settings, **variables: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Run a whole ``fit`` in a process of its own, and keep nothing but what this returns.

    Args:
        program: ``lightning-vgg`` or ``keras-reference``.
        settings: of the experiment.
        variables: of the environment.

    Returns:
        Its run.json, and the rows of its history.csv.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = as_arguments(*settings, {"trainer.default_root_dir": folder})
        environment = {**os.environ, "WANDB_MODE": "offline", **variables}
        code = f"from {program.replace('-', '_')}.cli import main; main()"  # a clone need not be installed
        command = [sys.executable, "-c", code, "fit", *arguments]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(process.stderr)
        (path,) = Path(folder).glob("runs/*/*")
        return RunFolder(path).read_record(), RunFolder(path).read_history()


def bare_loop(root: str, precision: str, *arguments: str, **variables: str) -> dict[str, float]:
    """What bare_loop.py prints, in a process of its own with these variables of the environment."""
    command = [sys.executable, BENCHMARKS / "bare_loop.py", "--root", root, "--precision", precision, *arguments]
    return json.loads(subprocess.check_output(command, text=True, env={**os.environ, **variables}))


def bare_loop_speed(root: str, precision: str, *arguments: str) -> float:
    """Images per second."""
    return bare_loop(root, precision, *arguments)["images_per_second"]


def finish_on_device() -> None:
    """Wait until a GPU has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def training_step(
    network: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor, precision: str = "32-true"
) -> None:
    """As one writes it by hand."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = F.cross_entropy(network(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


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


def matrix_peak(precision: str, seconds: float = 2.0) -> float:
    """FLOP/s of torch's product of two 2048 x 2048 matrices, the best of what fits into ``seconds``."""
    size = 2048
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    left, right = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        finish_on_device()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


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


def ratios_to_bare_loop(name: str, speeds: dict[str, list[float]]) -> tuple[dict[str, Any], list[list[str]]]:
    """Figures, and rows under RATIO_COLUMNS, of arms that took turns; speeds are images per second.

    The ratio of ``X, augmented`` is that to ``bare loop, augmented``.
    """
    figures, rows = {}, []
    for arm, values in speeds.items():
        bare_loop = speeds["bare loop, augmented" if arm.endswith(", augmented") else "bare loop"]
        ratios = [value / bare for value, bare in zip(values, bare_loop, strict=True)]
        speed, ratio = spread(values), spread(ratios)
        figures[f"{name}, {arm}"] = {"images_per_second": speed, "ratio_to_bare_loop": ratio}
        rows.append([name, arm])
        for each, digits in ((ratio, 3), (speed, 0)):
            rows[-1] += [f"{each['median']:.{digits}f}", f"{each['min']:.{digits}f} - {each['max']:.{digits}f}"]
    return figures, rows


def fill_table(
    output: Path,
    title: str,
    columns: list[str],
    settings: dict[str, Any],
    cells: dict[str, Callable[[], dict[str, Any]]],
    row: Callable[[dict[str, Any]], list[str]],
    seconds: float = math.inf,
) -> None:
    """Measure the cells that ``output`` does not have yet with the same settings, and publish after each of them.

    One that fails does not keep the others from being measured; it ends the program with a status of 1.

    Args:
        output: the JSON file.
        title: of the table.
        columns: of the table: the words of a cell's name, and those of ``row``.
        settings: what all cells have in common.
        cells: what is measured (words with commas between) -> how.
        row: figures of a cell -> its columns.
        seconds: after so many no other cell is begun, and those that are left are named.
    """
    known = json.loads(output.read_text()) if output.exists() else {}
    figures = known["cells"] if known.get("settings") == settings else {}
    end, failed = time.monotonic() + seconds, []
    for name, measure in cells.items():
        if name in figures:
            continue
        if time.monotonic() > end:
            print(f"left for another time: {name}")
            continue
        try:
            figures[name] = measure()
        except (Exception, SystemExit) as error:
            print(f"{name} failed: {error}", flush=True)
            failed.append(name)
            continue
        rows = [[*name.split(", "), *row(figure)] for name, figure in figures.items()]
        publish(output, title, columns, rows, {"settings": settings, "cells": figures})
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


def commit() -> str | None:
    """Of this clone; None outside of one."""
    command = ["git", "-C", str(BENCHMARKS), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def publish(output: Path, title: str, columns: list[str], rows: list[list[str]], figures: dict[str, Any]) -> None:
    """Print a table, and write a JSON file that also says where and with what the figures were measured."""
    machine = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")
    print(f"written to {output}")
