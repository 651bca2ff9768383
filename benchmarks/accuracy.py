"""Time to accuracy: the fast configuration against the lesson's, in Lightning and in Keras, over seeds.

    python benchmarks/accuracy.py --root IMAGES.tar.xz

Each run is the whole command with a process of its own, trained on all images as its YAML says and tested once; seconds
are those of the epochs (training and validation), start-up beside them. On an otherwise idle machine; its speed, which
varies, is that of the bare loop in bf16 (`bare_loop.py`) just before each run. Runs that the output file already has
are not repeated.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from common import CONFIGS, add_images, bare_loop_speed, benchmark_parser, fill_table, image_settings, train

ARMS = {
    "fast": ("lightning-vgg", "fast.yaml"),
    "lesson": ("lightning-vgg", "base.yaml"),
    "lesson in Keras": ("keras-reference", "base.yaml"),
}


def main() -> None:
    parser = benchmark_parser("accuracy", __doc__)
    add_images(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options = parser.parse_args()
    cells = {
        f"{arm}, seed {seed}": partial(measure, options.root, arm, seed)
        for seed, arm in product(options.seeds, options.arms)
    }
    columns = ["configuration", "seed", "test accuracy", "augmented test", "seconds", "images/s", "bare loop's"]
    fill_table(options.output, "Time to accuracy", columns, {"root": Path(options.root).name}, cells, row)


def measure(root: str, arm: str, seed: int) -> dict[str, Any]:
    bare_loop = bare_loop_speed(root, "bf16-mixed")
    program, config = ARMS[arm]
    settings = {**image_settings(root), "seed_everything": seed, "trainer.logger": False}
    record, history = train(program, CONFIGS / "vgg" / config, settings)
    return {
        "test_acc": record["test_acc"],
        "augmented_test_acc": record.get("augmented_test_acc"),
        "seconds": sum(row["seconds"] for row in history),
        "startup_seconds": record["startup_seconds"],
        "images_per_second": record["images_per_second"],
        "bare_loop_images_per_second": bare_loop,
    }


def row(run: dict[str, Any]) -> list[str]:
    accuracies = ["" if run[name] is None else f"{run[name]:.2%}" for name in ("test_acc", "augmented_test_acc")]
    speeds = (run[name] for name in ("seconds", "images_per_second", "bare_loop_images_per_second"))
    return [*accuracies, *(f"{speed:.0f}" for speed in speeds)]


if __name__ == "__main__":
    main()
