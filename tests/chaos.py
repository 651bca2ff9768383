"""Kill trainings at random moments, go on with them, and compare what comes out with trainings that nobody disturbed.

    python tests/chaos.py --kills 100 --seed 0

Each command is a process of its own, forked from one that has loaded the frameworks (a start would take seconds), and
is ended by SIGKILL after a random time, mostly; by SIGTERM or SIGINT sometimes. Then the same command with
``--ckpt_path last`` goes on, until it ends by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
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

DATA = ["--data.source", "digits", "--data.image_size", "8", "--data.train_images", "600", "--data.batch_size", "16",
        "--data.augmentation.shift", "1"]  # fmt: skip
NETWORK = ["--model.network.conv_block", "conv - batch norm - maxpool - dropout", "--model.network.filters", "[8,8]",
           "--model.network.units", "[16]", "--model.schedule.name", "cosine"]  # fmt: skip
TRAINER = ["--trainer.max_epochs", "4", "--trainer.logger", "false", "--trainer.enable_model_summary", "false",
           "--name", "run"]  # fmt: skip
SIGNALS = [signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT]


@dataclass(frozen=True)
class Case:
    """What is trained, in a folder that holds the run `source`."""

    name: str
    arguments: list[str]


CASES = [
    Case("from scratch", [*DATA, *NETWORK, *TRAINER]),
    Case(
        "fine-tuning across unfreezing",
        [*DATA, "--data.cache_dir", "cache", "--data.augmentation.shift", "0", *NETWORK, *TRAINER,
         "--model.network.filters", "[]", "--model.backbone.weights", "source", "--model.backbone.layer", "block2_pool",
         "--model.backbone.unfreeze", "{1: block1_pool, 3: block1_conv1}", "--model.optimizer.name", "sgd",
         "--model.optimizer.momentum", "0.9", "--model.optimizer.learning_rate", "0.05"],
    ),
]  # fmt: skip


def fit(folder: str, arguments: list[str], slowdown: float) -> None:
    """The command, in this process: a checkpoint every twentieth of a second inside an epoch, too."""
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from lightning_vgg import callbacks, cli
    from lightning_vgg.experiment import features

    callbacks.CHECKPOINT_SECONDS = 0.05
    if slowdown:  # an extraction that takes long enough to be hit
        digest = features._digest
        features._digest = lambda rows: (time.sleep(slowdown), digest(rows))[1]  # type: ignore[assignment]
        features.remember_features.__defaults__ = ("features", 0.0)
    warnings.simplefilter("default")
    sys.argv = ["lightning-vgg", "fit", *arguments]
    cli.main()


class Chaos:
    """Runs cases and kills them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["chaos", "lightning_vgg.experiment_cli", "wandb", "sklearn.datasets"])
        self.kills: Counter[str] = Counter()

    def run(self, folder: Path, arguments: list[str], kill_after: float | None, slowdown: float = 0.0) -> int:
        """The exit status: 0, 143, 130, or -9; the signal is chosen by chance."""
        number = self.random.choice(SIGNALS)
        process = self.processes.Process(target=fit, args=(str(folder), arguments, slowdown))
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

    def disturb(self, folder: Path, arguments: list[str], seconds: float, most: int) -> int:
        """Kill a training up to so many times, then let it end; returns the kills."""
        before = self.kills.total()
        for number in range(most + 1):
            begun = any(folder.glob("runs/*/run/config.yaml"))
            if not begun:  # killed before there was anything to go on with; its name is free again
                shutil.rmtree(folder / "runs", ignore_errors=True)
            resume = ["--ckpt_path", "last"] if begun else []
            after = self.random.uniform(0, seconds) if number < most else None
            status = self.run(folder, [*arguments, *resume], after, slowdown=0.01)
            if status == 0:
                break
            assert status in (-9, 143, 130), f"status {status}\n{(folder / 'output.txt').read_text()}"
        assert status == 0, (folder / "output.txt").read_text()
        return self.kills.total() - before


def assert_same(one: Path, other: Path) -> None:
    """Weights, optimizer, history, curves and predictions, bit for bit."""
    import torch

    from lightning_vgg.experiment.runs import RunFolder

    (first,), (second,) = (list(folder.glob("runs/*/*/config.yaml")) for folder in (one, other))
    a, b = first.parent, second.parent
    assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (a, b)]
    assert names[0] == names[1]
    for name in names[0]:
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (a, b)]
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "train_sums"):
            _assert_equal(states[0][key], states[1][key], f"{name}: {key}")
    histories = [[line.rpartition(",")[0] for line in (run / "history.csv").read_text().splitlines()] for run in (a, b)]
    assert histories[0] == histories[1]
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


def chaos(folder: Path, kills: int, seed: int, most: int = 6, say: Callable[[str], object] = print) -> Counter[str]:
    """Disturb the cases in turn until so many kills are survived; returns how many of which signal.

    Args:
        folder: an empty one to work in.
        kills: how many.
        seed: of the moments and the signals.
        most: kills of one training.
        say: where a line for each training goes.
    """
    world = Chaos(seed)
    source = folder / "source"
    source.mkdir()
    assert world.run(source, [*DATA, *NETWORK, *TRAINER, "--trainer.max_epochs", "1"], None) == 0
    whole, seconds = {}, {}
    for case in CASES:
        whole[case.name] = prepared(folder / f"whole {case.name}", source)
        started = time.monotonic()
        status = world.run(whole[case.name], case.arguments, None, slowdown=0.01)
        assert status == 0, (whole[case.name] / "output.txt").read_text()
        seconds[case.name] = time.monotonic() - started
    turn = 0
    while world.kills.total() < kills:
        case = CASES[turn % len(CASES)]
        disturbed = prepared(folder / f"disturbed {turn}", source)
        times = world.disturb(disturbed, case.arguments, seconds[case.name], min(most, kills - world.kills.total()))
        assert_same(whole[case.name], disturbed)
        say(f"{case.name}: {times} kills, the same in the end ({world.kills.total()} of {kills})")
        shutil.rmtree(disturbed)
        turn += 1
    return world.kills


def prepared(folder: Path, source: Path) -> Path:
    folder.mkdir()
    shutil.copytree(next(source.glob("runs/*/run")), folder / "source")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        kills = chaos(Path(folder), arguments.kills, arguments.seed)
    signals = ", ".join(f"{count} {name}" for name, count in sorted(kills.items()))
    print(f"{kills.total()} kills survived ({signals}): weights, optimizer, history, curves, predictions equal")


if __name__ == "__main__":
    main()
