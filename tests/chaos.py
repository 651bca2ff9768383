"""Kill commands at random moments, repeat them until they end, and compare what comes out with undisturbed ones.

    python tests/chaos.py --kills 100 --seed 0

Each command is a process of its own, forked from one that has loaded the frameworks (a start would take seconds), and
is ended by SIGKILL after a random time, mostly; by SIGTERM or SIGINT sometimes. Then it is given again (``fit`` with
``--ckpt_path last``), until it ends by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

DATA = "--data.source digits --data.image_size 8 --data.train_images 600 --data.batch_size 16".split()
NETWORK = shlex.split("""
    --model.network.conv_block 'conv - batch norm - maxpool - dropout' --model.network.filters [8,8]
    --model.network.units [16]
""")
TRAINER = "--trainer.max_epochs 4 --trainer.logger false".split()
SCHEDULE = "--model.schedule.name cosine --trainer.enable_model_summary false --name run".split()
FIT = ["fit", *DATA, *NETWORK, *TRAINER, *SCHEDULE]
ON_BACKBONE = """
    --data.cache_dir cache --model.network.filters [] --model.backbone.weights source
    --model.backbone.layer block2_pool
""".split()
COMPARED = {
    "compare": {
        "seeds": 1,
        "reference": "as-keras",
        "ladder": False,
        "ablation": False,
        "horizon": False,
        "arms": {
            "as-keras": {"framework": "lightning"},
            "as-torch": {"framework": "lightning", "settings": {"model.semantics": "torch"}},
        },
    }
}
TUNED = {
    "experiment": "study",
    "tune": {"startup_trials": 2, "space": {"model.optimizer.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True}}},
}
SIGNALS = [signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT]


@dataclass(frozen=True)
class Case:
    """A command, in a folder that holds the run ``source``, ``compare.yaml`` and ``tune.yaml``.

    Attributes:
        name: for people.
        arguments: the command line.
        same: raises AssertionError where two folders differ in what came out.
        finished: what of a folder must stay as it is once it is there.
    """

    name: str
    arguments: list[str]
    same: Callable[[Path, Path], None]
    finished: Callable[[Path], dict[Any, Any]] = lambda folder: {}


def run_command(folder: str, arguments: list[str]) -> None:
    """The command, in this process: a checkpoint every twentieth of a second, and features 32 images at a time."""
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from lightning_vgg import cli
    from lightning_vgg.common.interruption import SIGNALS
    from lightning_vgg.training import callbacks
    from lightning_vgg.weights import feature_store as features

    SIGNALS.install()
    callbacks.CHECKPOINT_SECONDS = 0.05
    features._PIXELS_A_BATCH = 32 * 8 * 8
    features.remember_features.__defaults__ = ("features", 0.0)
    digest = features._digest
    features._digest = lambda rows: (time.sleep(0.01), digest(rows))[1]  # type: ignore[assignment]
    warnings.simplefilter("default")
    sys.argv = ["lightning-vgg", *arguments]
    cli.main()


class Chaos:
    """Runs commands and kills them.

    Attributes:
        kills: how many of which signal.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(
            ["chaos", "lightning_vgg.training.lightning_cli", "lightning_vgg.tune.summary", "wandb", "sklearn.datasets"]
        )
        self.kills: Counter[str] = Counter()

    def run(self, folder: Path, arguments: list[str], kill_after: float | None) -> int:
        """The exit status: 0, 143, 130, or -9; the signal is chosen by chance."""
        number = self.random.choice(SIGNALS)
        process = self.processes.Process(target=run_command, args=(str(folder), arguments))
        process.start()
        process.join(kill_after)
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, number)
            process.join(120)
            if process.exitcode != 0:  # it had not ended by itself meanwhile
                self.kills[signal.Signals(number).name] += 1
                expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
                assert process.exitcode == expected, f"{process.exitcode}\n{(folder / 'output.txt').read_text()}"
        assert process.exitcode is not None
        return process.exitcode

    def disturb(self, folder: Path, case: Case, seconds: float, most: int) -> int:
        """Kill a command up to so many times, then let it end; returns the kills.

        Args:
            folder: where it works.
            case: the command.
            seconds: that it takes undisturbed.
            most: kills.
        """
        before = self.kills.total()
        finished: dict[Any, Any] = {}
        for number in range(most + 1):
            resume = []
            if case.arguments[0] == "fit":
                if any(folder.glob("runs/*/run/config.yaml")):
                    resume = ["--ckpt_path", "last"]
                else:  # killed before there was anything to go on with; its name is free again
                    shutil.rmtree(folder / "runs", ignore_errors=True)
            after = self.random.uniform(0.05, seconds) if number < most else None
            status = self.run(folder, [*case.arguments, *resume], after)
            now = case.finished(folder)
            assert finished.items() <= now.items(), f"lost: {finished.items() - now.items()}"
            finished = now
            if status == 0:
                break
            assert status in (-9, 143, 130), f"status {status}\n{(folder / 'output.txt').read_text()}"
        assert status == 0, (folder / "output.txt").read_text()
        return self.kills.total() - before


def run_folders(folder: Path) -> dict[str, Path]:
    """Name -> run folder, of all that were trained there."""
    return {config.parent.name: config.parent for config in folder.glob("runs/*/*/config.yaml")}


def same_runs(one: Path, other: Path) -> None:
    """The same run folders with the same weights, optimizer, history, curves and predictions, bit for bit."""
    first, second = run_folders(one), run_folders(other)
    assert first.keys() == second.keys() and first
    for name, run in first.items():
        assert_same_run(run, second[name])


def assert_same_run(a: Path, b: Path) -> None:
    import torch

    from lightning_vgg.runs.folder import RunFolder

    assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (a, b)]
    assert names[0] == names[1]
    for name in names[0]:
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (a, b)]
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "train_sums"):
            _assert_equal(states[0][key], states[1][key], f"{name}: {key}")
    histories = [[line.rpartition(",")[0] for line in (run / "history.csv").read_text().splitlines()] for run in (a, b)]
    assert histories[0] == histories[1]
    assert (a / "val_classes.csv").read_bytes() == (b / "val_classes.csv").read_bytes()
    assert (a / "curves.png").read_bytes() == (b / "curves.png").read_bytes()
    np.testing.assert_array_equal(*(RunFolder(run).read_predictions()[1] for run in (a, b)))


def _assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            _assert_equal(value, other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            _assert_equal(left, right, f"{where}[{number}]")
    elif hasattr(one, "shape"):
        assert bool((one == other).all()), where
    else:
        assert one == other, where


def same_features(one: Path, other: Path) -> None:
    """The kept features, too; the lines of their progress may be cut elsewhere."""
    same_runs(one, other)
    first, second = ({path.parent.name: path for path in each.glob("cache/*/features.npy")} for each in (one, other))
    assert first.keys() == second.keys() and len(first) == 3
    for name, path in first.items():
        np.testing.assert_array_equal(np.load(path), np.load(second[name]))


def same_comparison(one: Path, other: Path) -> None:
    same_runs(one, other)
    first, second = ((each / "runs/vgg/compare-compare/comparison.json").read_text() for each in (one, other))
    assert first == second
    assert (other / "runs/vgg/compare-compare/report.html").exists()


def finished_runs(folder: Path) -> dict[Path, int]:
    """Run folders that were tested -> when."""
    records = [path / "run.json" for path in run_folders(folder).values()]
    return {path: path.stat().st_mtime_ns for path in records if path.exists() and '"test_acc"' in path.read_text()}


def finished_trials(folder: Path) -> dict[int, tuple[Any, ...]]:
    """Number of a trial that ended by itself -> its draw, what it drew, and what came of it."""
    from lightning_vgg.tune.spec import read_settings, tune_parser
    from lightning_vgg.tune.study import finished_trials, open_study

    arguments = ["-c", str(folder / "tune.yaml"), *TUNE[3:], "--trainer.default_root_dir", str(folder)]
    trials = finished_trials(open_study(read_settings(tune_parser().read(arguments))))
    return {
        trial.number: (trial.user_attrs["draw"], *trial.params.items(), *trial.values, trial.user_attrs["epochs"])
        for trial in trials
    }


def same_study(one: Path, other: Path) -> None:
    """As many trials ended, which drew and came to the same; one that was killed has a number, and no result."""
    first, second = (sorted(finished_trials(folder).values()) for folder in (one, other))
    assert first == second and len(first) == 4
    best = [yaml.safe_load((folder / "runs/study/best.yaml").read_text()) for folder in (one, other)]
    assert best[0] == best[1]
    assert (other / "runs/study/report.html").exists()


TUNE = ["tune", "-c", "tune.yaml", *DATA, *NETWORK, *TRAINER, "--trials", "4"]
CASES = [
    Case("fit from scratch", [*FIT, "--data.augmentation.shift", "1"], same_runs),
    Case(
        "fine-tuning across unfreezing",
        [
            *FIT,
            *ON_BACKBONE,
            *shlex.split("""
                --model.backbone.unfreeze '{1: block1_pool, 3: block1_conv1}' --model.optimizer.name sgd
                --model.optimizer.momentum 0.9 --model.optimizer.learning_rate 0.05
            """),
        ],
        same_runs,
    ),
    Case("embeddings", [*FIT, *ON_BACKBONE, "--trainer.max_epochs", "1"], same_features),
    Case("tune", TUNE, same_study, finished_trials),
    Case(
        "compare",
        ["compare", "-c", "compare.yaml", *DATA, *NETWORK, *TRAINER, "--jobs", "2"],
        same_comparison,
        finished_runs,
    ),
]


def chaos(folder: Path, kills: int, seed: int, most: int, say: Callable[[str], object] = print) -> Counter[str]:
    """Disturb the cases in turn until so many kills are survived; returns how many of which signal.

    Args:
        folder: an empty one to work in.
        kills: how many.
        seed: of the moments and the signals.
        most: kills of one command.
        say: where a line for each command, and at the end for each kind of command, goes.
    """
    world = Chaos(seed)
    source = folder / "source"
    source.mkdir()
    assert world.run(source, [*FIT, "--trainer.max_epochs", "1"], None) == 0, (source / "output.txt").read_text()
    whole: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    survived: Counter[str] = Counter()
    turn = 0
    while world.kills.total() < kills:
        case = CASES[turn % len(CASES)]
        if case.name not in whole:
            whole[case.name] = prepared(folder / f"whole {case.name}", source)
            started = time.monotonic()
            status = world.run(whole[case.name], case.arguments, None)
            assert status == 0, (whole[case.name] / "output.txt").read_text()
            seconds[case.name] = time.monotonic() - started
        disturbed = prepared(folder / f"disturbed {turn}", source)
        times = world.disturb(disturbed, case, seconds[case.name], min(most, kills - world.kills.total()))
        case.same(whole[case.name], disturbed)
        survived[case.name] += times
        say(f"{case.name}: {times} kills, the same in the end ({world.kills.total()} of {kills})")
        shutil.rmtree(disturbed)
        turn += 1
    for name, count in survived.items():
        say(f"{count:4} kills survived by {name}")
    return world.kills


def prepared(folder: Path, source: Path) -> Path:
    folder.mkdir()
    shutil.copytree(next(source.glob("runs/*/run")), folder / "source")
    (folder / "compare.yaml").write_text(yaml.safe_dump(COMPARED))
    (folder / "tune.yaml").write_text(yaml.safe_dump(TUNED))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--most", type=int, default=6, help="kills of one command")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        kills = chaos(Path(folder), arguments.kills, arguments.seed, arguments.most)
    signals = ", ".join(f"{count} {name}" for name, count in sorted(kills.items()))
    print(f"{kills.total()} kills survived ({signals}): what came out is the same, bit for bit")


if __name__ == "__main__":
    main()
