"""One GPU in one command of at most ten minutes: speed, time to accuracy, agreement with the CPU, waits of the host.

    python benchmarks/gpu.py --root IMAGES.tar.xz
    python benchmarks/gpu.py --root IMAGES.tar.xz --quick      whether it runs, on any machine; speeds mean nothing

Needed are torch, torchvision, lightning, torchmetrics and what else a training imports: jsonargparse[signatures],
scikit-learn, scipy, matplotlib, Pillow, PyYAML, psutil, filelock, rich, safetensors, tqdm. No wandb, no TensorFlow. The
rungs of the ladder need keras, too, which runs on jax where that is installed, else on torch; without keras they are
left out. In a clone that is not installed, set PYTHONPATH to it.

Speeds are those of training with batches of 128, each arm in a process of its own; ``fp32`` is torch's default, where
convolutions may compute by TF32, ``fp32 without TF32`` is float32 throughout. Cells that the output file has of the
same card are not measured again. After --seconds no other is begun: call it again for the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    AUGMENTED,
    BENCHMARKS,
    CONFIGS,
    DEVICE,
    NETWORKS,
    add_images,
    bare_loop,
    benchmark_parser,
    fill_table,
    image_settings,
    train,
)
from lightning.fabric.utilities import move_data_to_device

import lightning_vgg
from lightning_vgg.experiment.draws import draw_epoch, layer_key, lowest_kept, mask_bits, mask_keys
from lightning_vgg.experiment.specs import LIVELY
from lightning_vgg.images.batches import normalize, training_batch
from lightning_vgg.images.dataset import Split
from lightning_vgg.training.augmentation import train_rows
from lightning_vgg.training.data import DeviceImages
from lightning_vgg.training.dropout import kept

Cell = Callable[[], dict[str, Any]]
PRECISIONS = {"fp32 without TF32": "32-true", "fp32": "32-true", "bf16": "bf16-mixed"}
QUICK = {"data.train_images": 64, "data.batch_size": 32, "trainer.max_epochs": 1, "trainer.limit_test_batches": 1}


def main() -> None:
    parser = benchmark_parser("gpu", __doc__)
    add_images(parser)
    parser.add_argument("--images", type=int, default=25_600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="cells in whose names these are")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.images, options.epochs = QUICK["data.train_images"], QUICK["trainer.max_epochs"]
        if options.output == parser.get_default("output"):
            options.output = Path("runs/bench-quick/gpu.json")
    if DEVICE.type == "cpu" and not options.quick:
        parser.error("there is no GPU: --quick shows only that the benchmark runs")
    chosen = {name: cell for name, cell in cells(options).items() if any(words in name for words in options.only)}
    settings = {name: getattr(options, name) for name in ("images", "epochs", "quick")}
    gpu = torch.cuda.get_device_name() if DEVICE.type == "cuda" else None
    settings |= {"root": Path(options.root).name, "gpu": gpu}
    title = gpu or "without a GPU"
    fill_table(options.output, title, ["what", "precision", "arm", "measured"], settings, chosen, row, options.seconds)


def cells(options: argparse.Namespace) -> dict[str, Cell]:
    """What, precision, arm -> how it is measured; what matters most comes first."""
    root = options.root
    found: dict[str, Cell] = {
        "dropout masks, all, on the device": masks,
        "augmentation, float32, on the device": partial(augmentation, root),
    }
    if DEVICE.type == "cuda":
        found["waits of the host, fp32, fit"] = partial(waits, root)
    for network in NETWORKS:
        for precision in PRECISIONS:
            found |= speeds(options, network, precision)
    found["fast.yaml, bf16, seed 0"] = partial(accuracy, options, 0)
    found["VGG16's features, both, both"] = partial(features, options)
    if importlib.util.find_spec("keras"):
        backend = "jax" if importlib.util.find_spec("jax") else "torch"
        found[f"parity ladder, float32, Keras on {backend}"] = partial(rungs, options, backend)
    else:
        print("keras is not installed: the rungs of the ladder are left out")
    if not options.quick:
        found |= speeds(options, "lesson", "bf16", batch=1024)
        for network in NETWORKS:
            found |= speeds(options, network, "bf16", compiled=True)
        found |= {f"fast.yaml, bf16, seed {seed}": partial(accuracy, options, seed) for seed in (1, 2)}
    return found


def speeds(
    options: argparse.Namespace, network: str, precision: str, batch: int = 128, compiled: bool = False
) -> dict[str, Cell]:
    """``fit`` and the bare loop; in bf16, ``fit`` without channels_last, too."""
    variables = {"NVIDIA_TF32_OVERRIDE": "0"} if "without" in precision else {}
    batch = QUICK["data.batch_size"] if options.quick else batch
    augmented = network == "vgg16"
    settings = {
        **image_settings(options.root, options.images),
        **(AUGMENTED if augmented else {}),
        "data.batch_size": batch,
        "model.semantics": "torch",
        "model.compile": compiled,
        "trainer.max_epochs": options.epochs,
        "trainer.precision": PRECISIONS[precision],
        "trainer.logger": False,
        "trainer.limit_test_batches": 1,
    }
    sizes = ["--images", str(options.images), "--epochs", str(options.epochs), "--batch", str(batch)]
    flags = [*sizes, "--network", network, *["--augmented"] * augmented, *["--compile"] * compiled]

    def fit(**changes: Any) -> dict[str, Any]:
        record, _ = train("lightning-vgg", *NETWORKS[network], {**settings, **changes}, **variables)
        return {name: record[name] for name in ("images_per_second", "peak_memory_bytes", "startup_seconds")}

    name = f"{network}{f' with batches of {batch}' if batch > 128 else ''}, {precision}{' compiled' * compiled}"
    found: dict[str, Cell] = {
        f"{name}, bare loop": lambda: bare_loop(options.root, PRECISIONS[precision], *flags, **variables),
        f"{name}, fit": fit,
    }
    if precision == "bf16" and batch <= 128 and not compiled:
        found[f"{name}, fit without channels_last"] = lambda: fit(**{"model.channels_last": False})
    return found


def accuracy(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    settings = {**image_settings(options.root), "seed_everything": seed, "trainer.logger": False}
    quick = QUICK if options.quick else {}
    record, history = train("lightning-vgg", CONFIGS / "vgg" / "fast.yaml", settings, quick)
    figures = {name: record[name] for name in ("test_acc", "augmented_test_acc", "peak_memory_bytes")}
    return {**figures, "seconds_of_epochs": [row["seconds"] for row in history]}


def features(options: argparse.Namespace) -> dict[str, Any]:
    """By features.py."""
    sizes = ["--images", str(options.images), "--turns", "1" if options.quick else "3"]
    arms = _by_script("features.py", "--root", options.root, "--preprocessing", "keras_caffe", *sizes)["arms"]
    return {"images_per_second": {name: arm["images_per_second"]["median"] for name, arm in arms.items()}}


def rungs(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """By gpu_rungs.py, in float32 throughout on both sides."""
    variables = {
        "KERAS_BACKEND": backend,
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "NVIDIA_TF32_OVERRIDE": "0",
    }
    return _by_script("gpu_rungs.py", "--root", options.root, *["--quick"] * options.quick, **variables)


def _by_script(script: str, *arguments: str, **variables: str) -> dict[str, Any]:
    """What a script of this folder writes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output.json")
        command = [sys.executable, BENCHMARKS / script, *arguments, "--output", output]
        process = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(process.stderr)
        return json.loads(output.read_text())


def masks() -> dict[str, int]:
    """Units whose dropout differs between the device and numpy's definition, of layers of every precision."""
    keys, key = mask_keys(0, 3, np.arange(128)), layer_key("block1.dropout1")
    found = {"compared": 0, "different": 0}
    for shape in ((128, 64, 16, 16), (128, 250)):
        bits = mask_bits(keys, key, int(np.prod(shape[1:])))
        channels_last = bits.reshape(len(keys), *shape[2:], shape[1])
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for rate in (0.25, 0.5, 0.9):
                scale = torch.tensor(1 / (1 - rate), dtype=dtype)
                expected = torch.from_numpy(np.moveaxis(channels_last >= lowest_kept(rate), -1, 1)) * scale
                there = torch.from_numpy(keys).to(DEVICE)
                mask = kept(there, key, rate, torch.empty(shape, dtype=dtype, device=DEVICE))
                found["compared"] += expected.numel()
                found["different"] += int((mask.cpu() != expected).sum())
    return found


def augmentation(root: str) -> dict[str, Any]:
    """Pixels of an augmented batch that differ, and by how much, between the device and numpy."""
    images = lightning_vgg.load_images(image_settings(root, 512))
    part, classes = Split(images.train.images, images.train.labels), len(images.class_names)
    draws = draw_epoch(0, 0, len(part.labels), part.images.shape[1], LIVELY)
    on_device = DeviceImages(part, images.normalization, DEVICE, torch.float32)
    rows = move_data_to_device(train_rows(draws, slice(0, 512), slice(None)), DEVICE)
    batch, labels, _ = on_device.training_batch(rows, LIVELY.cutout, classes)
    preprocess = partial(normalize, normalization=images.normalization, dtype=np.float32)
    expected, shares = training_batch(part.images, part.labels, classes, draws, LIVELY.cutout, preprocess)
    apart = np.abs(batch.permute(0, 2, 3, 1).cpu().numpy() - expected)
    different = int((apart > 0).sum() + (labels.cpu().numpy() != shares).sum())
    return {"compared": apart.size + shares.size, "different": different, "largest_difference": float(apart.max())}


def waits(root: str) -> dict[str, int]:
    """Calls that made the host wait for the GPU, by torch's own count, in trainings of 10 and of 20 steps."""
    found = {}
    for steps in (10, 20):
        settings = {**image_settings(root, 128 * steps), "data.eval_batch_size": 2000, "trainer.max_epochs": 1}
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            run = {"trainer.default_root_dir": folder, "trainer.logger": False}
            lightning_vgg.fit(*NETWORKS["lesson"], settings, run)
            torch.cuda.set_sync_debug_mode("default")
        found[f"in_{steps}_steps"] = sum("synchronizing CUDA operation" in str(each.message) for each in caught)
    return found


def row(figure: dict[str, Any]) -> list[str]:
    """Of the figures of any cell, those that one wants to see."""
    match figure:
        case {"compared": compared, "different": different}:
            return [f"{different} of {compared:,} differ"]
        case {"in_10_steps": few, "in_20_steps": many}:
            return [f"{few} in 10 steps, {many} in 20"]
        case {"test_acc": accuracy, "augmented_test_acc": augmented, "seconds_of_epochs": seconds}:
            return [f"{accuracy:.2%}, augmented {augmented:.2%}, {sum(seconds):.1f} s"]
        case {"rungs": found, "passed": passed, "device": device}:
            return [f"{passed} of {len(found)} rungs passed on {device}"]
        case {"images_per_second": dict(speeds)}:
            return ["; ".join(f"{arm}: {speed:,.0f}" for arm, speed in speeds.items())]
        case {"images_per_second": speed, "peak_memory_bytes": memory}:
            return [f"{speed:,.0f} images/s, {memory / 1e9:.2f} GB"]
    raise ValueError(f"unknown figures {figure}")


if __name__ == "__main__":
    main()
