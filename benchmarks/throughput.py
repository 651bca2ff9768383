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
from functools import partial
from typing import Any

from common import (
    AUGMENTED,
    CONFIGS,
    LESSON,
    RATIO_COLUMNS,
    add_images,
    bare_loop_speed,
    benchmark_parser,
    image_settings,
    matrix_peak,
    publish,
    ratios_to_bare_loop,
    take_turns,
    train,
    training_flops,
)

from lightning_vgg import plan_network

EPOCHS = 3


def main() -> None:
    parser = benchmark_parser("throughput", __doc__)
    add_images(parser)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[128])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--keras", action="store_true", help="measure the Keras reference, too")
    options = parser.parse_args()
    flops = training_flops(plan_network(LESSON))
    figures: dict[str, Any] = {}
    rows = []
    for precision in options.precisions:
        peak = matrix_peak(precision)
        for batch in options.batches:
            name = f"{precision}, batch {batch}"
            of_name, table = ratios_to_bare_loop(name, take_turns(name, arms(options, precision, batch), options.turns))
            for (key, figure), row in zip(of_name.items(), table, strict=True):
                share = figure["images_per_second"]["median"] * flops / peak
                figures[key] = {**figure, "share_of_peak": share}
                rows.append([*row, f"{share:.0%}"])
        figures[f"{precision}, matrix peak"] = peak
    settings = {"images": options.images, "epochs": EPOCHS, "turns": options.turns, "flops_per_image": flops}
    title = "Training throughput, ratio to the bare loop"
    publish(options.output, title, [*RATIO_COLUMNS, "of peak"], rows, {**settings, "arms": figures})


def arms(options: argparse.Namespace, precision: str, batch: int) -> dict[str, Callable[[], float]]:
    """What is measured -> how."""
    sizes = ["--images", str(options.images), "--epochs", str(EPOCHS), "--batch", str(batch)]
    bare_loop = partial(bare_loop_speed, options.root, precision, *sizes)
    settings = {
        **image_settings(options.root, options.images),
        **LESSON,
        "data.batch_size": batch,
        "trainer.max_epochs": EPOCHS,
        "trainer.precision": precision,
    }
    torch = {**settings, "model.semantics": "torch"}
    measured: dict[str, Callable[[], float]] = {
        "bare loop": bare_loop,
        "fit": lambda: fit_speed("lightning-vgg", torch),
        "bare loop, augmented": partial(bare_loop, "--augmented"),
        "fit, augmented": lambda: fit_speed("lightning-vgg", {**torch, **AUGMENTED}),
    }
    if options.keras:
        measured["Keras reference"] = lambda: fit_speed("keras-reference", settings)
    return measured


def fit_speed(program: str, settings: dict[str, Any]) -> float:
    record, _ = train(program, CONFIGS / "vgg" / "base.yaml", settings)
    return record["images_per_second"]


if __name__ == "__main__":
    main()
