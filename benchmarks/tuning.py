"""What a search finds: the best of a study against the experiment as it stands, over seeds, on the test images.

    python benchmarks/tuning.py --root IMAGES.tar.xz

Runs ``lightning-vgg tune`` with configs/tune/vgg.yaml (or goes on with its study), trains the best found and the
experiment's own settings with the same seeds and epochs, and tests each once. Pruning saves the epochs that are not
trained, each at the mean time of its trial's others. On two otherwise idle cores.
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

from common import CONFIGS, add_images, benchmark_parser, image_settings, publish, train

from lightning_vgg import tune_settings
from lightning_vgg.experiment.arguments import Settings

STUDY = CONFIGS / "tune" / "vgg.yaml"
EPOCHS = 6
AS_IT_STANDS = {"data.train_images": 5000, "trainer.max_epochs": EPOCHS}
"""What the study's experiment has beside that of configs/vgg/base.yaml."""


def main() -> None:
    parser = benchmark_parser("tuning", __doc__)
    add_images(parser)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path(), help="runs/ goes here")
    options = parser.parse_args()
    images = image_settings(options.root)
    processes = {"trials": options.trials, "jobs": options.jobs, "trainer.default_root_dir": options.folder}
    study = tune_settings(STUDY, images, processes)
    folder = options.folder / "runs" / "tune-vgg"
    experiments = {
        "the experiment as it stands": [CONFIGS / "vgg" / "base.yaml", {**images, **AS_IT_STANDS}],
        f"best of {len(study.trials)} trials": [folder / "best.yaml"],
    }
    tested = {
        name: [test_acc(*settings, {"seed_everything": seed}) for seed in options.seeds]
        for name, settings in experiments.items()
    }
    with (folder / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    figures = {
        "settings": {"root": Path(options.root).name, "jobs": options.jobs, "seeds": options.seeds},
        "trials": len(trials),
        **pruning(trials),
        "best": {"trial": study.best_trial.number, "val_acc": study.best_value, "params": study.best_params},
        "test_acc": tested,
    }
    rows = [
        [name, f"{statistics.mean(each):.2%}", f"{statistics.stdev(each):.2%}", ", ".join(f"{one:.2%}" for one in each)]
        for name, each in tested.items()
    ]
    title = "{pruned} of {trials} trials pruned: {seconds_spent:.0f} s spent, {seconds_saved:.0f} s saved"
    columns = ["settings", "test accuracy", "deviation", "by seed"]
    publish(options.output, title.format(**figures), columns, rows, figures)


def test_acc(*settings: Settings) -> float:
    record, _ = train("lightning-vgg", *settings, {"trainer.logger": False})
    return record["test_acc"]


def pruning(trials: list[dict[str, str]]) -> dict[str, float]:
    """How many trials were pruned, and the seconds that all took and that this saved."""
    timed = [(float(trial["seconds"]), int(trial["epochs"])) for trial in trials if trial["seconds"]]
    return {
        "pruned": sum(trial["state"] == "pruned" for trial in trials),
        "seconds_spent": sum(seconds for seconds, _ in timed),
        "seconds_saved": sum((EPOCHS - epochs) * seconds / epochs for seconds, epochs in timed),
    }


if __name__ == "__main__":
    main()
