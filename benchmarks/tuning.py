"""What a search finds: the best of a study against the experiment as it stands, over seeds, on the test images.

    python benchmarks/tuning.py --root IMAGES.tar.xz

Runs ``lightning-vgg tune`` with configs/tune/vgg.yaml (or goes on with its study), trains the best found and the
experiment's own settings with the same seeds and epochs, and tests each once. Pruning saves the epochs that are not
trained, each at the mean time of its trial's others. On two otherwise idle cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import publish
from optuna.trial import TrialState

from lightning_vgg.tune.spec import StudySettings, read_settings, tune_parser
from lightning_vgg.tune.study import best_trial, finished_trials, open_study
from lightning_vgg.tune.summary import savings
from lightning_vgg.tune.worker import train_once

PROGRAM = Path(sys.executable).parent / "lightning-vgg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).parent.parent / "configs" / "tune" / "vgg.yaml"))
    parser.add_argument("--root", help="image folder or archive; CIFAR-10 by default")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", default=".", help="runs/ goes here")
    options = parser.parse_args()
    images = ["--data.source", "folder", "--data.root", options.root] if options.root else []
    args = [
        "-c",
        options.config,
        *images,
        "--trainer.default_root_dir",
        options.folder,
        "--trials",
        str(options.trials),
        "--jobs",
        str(options.jobs),
    ]
    subprocess.run([PROGRAM, "tune", *args], check=True)
    tuner = tune_parser()
    settings = read_settings(tuner.parse_args(args), tuner)
    study = open_study(settings)
    best, trials = best_trial(study), finished_trials(study)
    default, found = (
        [test_acc(settings, params, f"{name}_seed{seed}", seed) for seed in options.seeds]
        for name, params in (("default", {}), (f"best{best.number:04}", best.params))
    )
    spent, saved = savings(trials, settings)
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    figures: dict[str, Any] = {
        "settings": {
            "config": Path(options.config).name,
            "root": options.root and Path(options.root).name,
            "jobs": options.jobs,
            "seeds": options.seeds,
        },
        "trials": len(trials),
        "pruned": pruned,
        "seconds_spent": spent,
        "seconds_saved": saved,
        "best": {"trial": best.number, "val_acc": best.values[0], "params": best.params, "test_acc": found},
        "default": {"test_acc": default},
    }
    rows = [
        [name, f"{statistics.mean(each):.2%}", f"{statistics.stdev(each):.2%}", ", ".join(f"{one:.2%}" for one in each)]
        for name, each in (("the experiment as it stands", default), (f"best of {len(trials)} trials", found))
    ]
    title = f"{pruned} of {len(trials)} trials pruned: {spent:.0f} s spent, {saved:.0f} s saved"
    publish("tuning", title, ["settings", "test accuracy", "deviation", "by seed"], rows, figures)


def test_acc(settings: StudySettings, params: dict[str, Any], name: str, seed: int) -> float:
    """Of the experiment with these parameters, trained and tested once."""
    return train_once(settings.config(params, name=name, seed_everything=seed), settings).read_record()["test_acc"]


if __name__ == "__main__":
    main()
