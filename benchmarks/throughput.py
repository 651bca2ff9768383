"""Images per second of training: ``lightning-vgg fit`` against a bare PyTorch loop and the Keras reference.

    python benchmarks/throughput.py --root IMAGES.tar.xz --keras

Every arm is a process of its own that trains the lesson's network (32/64/128, dense 256); the arms take turns. An arm's
figure in one turn is the median over its three epochs, of which the first also warms up (TensorFlow builds its graph);
the table shows the median over the turns, and the ratio to the bare loop, with augmentation where the arm has it, turn
by turn. ``fit`` is the whole command line: metrics, history, checkpoints, W&B offline. The share of the peak is that of
the fastest product of two large matrices, measured before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from common import (
    RATIO_COLUMNS,
    ROOT,
    bare_loop_speed,
    matrix_peak,
    publish,
    ratios_to_bare_loop,
    run_folder_speed,
    take_turns,
    training_flops,
)

from lightning_vgg.experiment.network_plan import plan_network
from lightning_vgg.experiment.specs import NetworkSpec

TORCH = ["--model.semantics", "torch"]
EPOCHS = 3
AUGMENTED = ["--data.augmentation.flip", "true", "--data.augmentation.shift", "4", "--data.augmentation.cutout", "8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="image folder or archive")
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[128])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--keras", action="store_true", help="measure the Keras reference, too")
    options = parser.parse_args()
    flops = training_flops(plan_network(NetworkSpec(filters=[32, 64, 128], units=[256]), 32, 10))
    figures: dict[str, Any] = {}
    rows = []
    for precision in options.precisions:
        peak = matrix_peak(precision)
        for batch in options.batches:
            name = f"{precision}, batch {batch}"
            speeds = take_turns(name, arms(options, precision, batch), options.turns)
            of_name, table = ratios_to_bare_loop(name, speeds)
            for (key, figure), row in zip(of_name.items(), table, strict=True):
                share = figure["images_per_second"]["median"] * flops / peak
                figures[key] = {**figure, "share_of_peak": share}
                rows.append([*row, f"{share:.0%}"])
        figures[f"{precision}, matrix peak"] = peak
    settings = {"images": options.images, "epochs": EPOCHS, "turns": options.turns, "flops_per_image": flops}
    columns = [*RATIO_COLUMNS, "of peak"]
    publish("throughput", "Training throughput, ratio to the bare loop", columns, rows, {**settings, "arms": figures})


def arms(options: argparse.Namespace, precision: str, batch: int) -> dict[str, Callable[[], float]]:
    """What is measured -> how."""
    measured: dict[str, Callable[[], float]] = {
        "bare loop": lambda: bare_loop(options, precision, batch, False),
        "fit": lambda: fit_speed("lightning-vgg", options, precision, batch, TORCH),
        "bare loop, augmented": lambda: bare_loop(options, precision, batch, True),
        "fit, augmented": lambda: fit_speed("lightning-vgg", options, precision, batch, [*TORCH, *AUGMENTED]),
    }
    if options.keras:
        measured["Keras reference"] = lambda: fit_speed("keras-reference", options, precision, batch, [])
    return measured


def bare_loop(options: argparse.Namespace, precision: str, batch: int, augmented: bool) -> float:
    sizes = ["--images", str(options.images), "--epochs", str(EPOCHS), "--batch", str(batch)]
    return bare_loop_speed(options.root, precision, *sizes, *["--augmented"] * augmented)


def fit_speed(program: str, options: argparse.Namespace, precision: str, batch: int, more: list[str]) -> float:
    return run_folder_speed(
        [
            program,
            "fit",
            "-c",
            ROOT / "configs" / "vgg" / "base.yaml",
            "--data.source",
            "folder",
            "--data.root",
            options.root,
            "--data.train_images",
            str(options.images),
            "--data.validation_fraction",
            "0",
            "--model.network.units",
            "[256]",
            "--trainer.max_epochs",
            str(EPOCHS),
            "--trainer.precision",
            precision,
            "--data.batch_size",
            str(batch),
            *more,
        ]
    )


if __name__ == "__main__":
    main()
