"""A run of the Keras reference that was stopped goes on after its last whole epoch, and ends like one that was not."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import history_without_seconds
from made_images import png, write
from PIL import Image
from test_keras_transfer import ON_A_BACKBONE
from test_keras_transfer import folder as folder

from keras_reference.cli import run as run_command
from lightning_vgg.cli import run as run_lightning
from lightning_vgg.common.interruption import SIGNALS
from lightning_vgg.runs.folder import RunFolder

FIT = shlex.split("""
    fit --data.source digits --data.image_size 8 --data.train_images 200 --data.batch_size 32
    --data.augmentation.shift 1 --model.network.conv_block 'conv - batch norm - maxpool - dropout'
    --model.network.filters [4] --model.network.units [8] --model.schedule.name cosine
    --trainer.max_epochs 3 --trainer.logger false
""")
GRADUAL = shlex.split(f"""
    {ON_A_BACKBONE} --name run --model.backbone.unfreeze '{{2: block1_pool}}' --model.backbone.rate_factor 0.5
""")
STOPPED = """
import os, sys
from keras_reference import callbacks, cli
step, number = map(int, sys.argv[1:3])
watch = callbacks.RefuseBadLoss.on_train_batch_end
def stop(self, batch, logs):
    if self.epoch * self.steps + batch == step:
        os.kill(os.getpid(), number)
    watch(self, batch, logs)
callbacks.RefuseBadLoss.on_train_batch_end = stop
sys.argv = ["keras-reference", *sys.argv[3:]]
cli.main()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    root = tmp_path_factory.mktemp("whole")
    assert run_command([*FIT, "--trainer.default_root_dir", str(root), "--name", "run"]) == 0
    return root / "runs" / "vgg" / "run"


@pytest.fixture
def stop_in_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Send this process SIGTERM while a step is under way, steps counted from 0."""
    from keras_reference.callbacks import RefuseBadLoss

    watch = RefuseBadLoss.on_train_batch_end
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop_in_step(step: int | None) -> None:
        def stop(self: Any, batch: int, logs: dict[str, float]) -> None:
            if self.epoch * self.steps + batch == step:
                signal.raise_signal(signal.SIGTERM)
            watch(self, batch, logs)

        SIGNALS.install()
        monkeypatch.setattr(RefuseBadLoss, "on_train_batch_end", stop)

    yield stop_in_step
    for number, handler in handlers.items():
        signal.signal(number, handler)


def assert_same_run(one: Path, other: Path) -> None:
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    assert history_without_seconds(one) == history_without_seconds(other)
    for file in ("checkpoints/last.npz", "test_predictions.npz"):
        with np.load(one / file) as first, np.load(other / file) as second:
            assert first.files == second.files and len(first.files) > 1
            for name in first.files:
                np.testing.assert_array_equal(first[name], second[name], name)
    assert (one / "curves.png").read_bytes() == (other / "curves.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.thorough), signal.SIGKILL])
def test_a_stopped_run_goes_on_and_ends_like_an_uninterrupted_one(
    number: int, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """180 images are 6 steps of an epoch: it is stopped in the second one, in a process of its own."""
    arguments = [*FIT, "--trainer.default_root_dir", str(tmp_path), "--name", "run"]
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, "8", str(number), *arguments], capture_output=True, text=True
    )
    run = tmp_path / "runs" / "vgg" / "run"
    if number == signal.SIGTERM:
        assert stopped.returncode == 143, stopped.stderr
        assert f"stopped by SIGTERM after writing {run}/checkpoints/last.npz: the same command" in stopped.stderr
    else:
        assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len(history_without_seconds(run)) == 2
    assert run_command([*arguments, "--ckpt_path", "last"]) == 0
    assert "epoch   2/3" in capfd.readouterr().out
    assert_same_run(run, whole)


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew_in_its_folder(
    whole: Path, tmp_path: Path, stop_in_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*FIT, "--trainer.default_root_dir", str(tmp_path), "--name", "run"]
    stop_in_step(2)
    assert run_command(arguments) == 143
    assert capsys.readouterr().err == "keras-reference: stopped by SIGTERM\n"
    stop_in_step(None)
    assert run_command([*arguments, "--ckpt_path", "last"]) == 0
    assert_same_run(tmp_path / "runs" / "vgg" / "run", whole)


@pytest.mark.parametrize("step", [4, pytest.param(7, marks=pytest.mark.thorough)])
def test_a_run_stopped_around_an_unfreezing_ends_like_an_uninterrupted_one(
    step: int, folder: Path, monkeypatch: pytest.MonkeyPatch, stop_in_step: Any
) -> None:
    """90 images are 3 steps; block 2 trains from step 6 on. The kept features of block 1 take its place."""
    monkeypatch.chdir(folder)
    roots = Path("whole"), Path(f"stopped{step}")
    whole, stopped = (root / "runs" / "vgg" / "run" for root in roots)
    if not whole.exists():
        assert run_command([*GRADUAL, "--trainer.default_root_dir", str(roots[0])]) == 0
    stop_in_step(step)
    assert run_command([*GRADUAL, "--trainer.default_root_dir", str(roots[1])]) == 143
    stop_in_step(None)
    (folder / "source").rename(folder / "elsewhere")  # what a checkpoint holds is not asked for again
    try:
        assert run_command(["fit", "-c", str(stopped / "config.yaml"), "--ckpt_path", "last"]) == 0
    finally:
        (folder / "elsewhere").rename(folder / "source")
    assert_same_run(stopped, whole)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ckpt_path", "best"], "does not implement --ckpt_path best: it continues only after the last complete"),
        (["--ckpt_path", "last", "--data.batch_size", "16"], "data.batch_size: 32 in the run, 16 now"),
        (["--ckpt_path", "last", "--data.source", "folder", "--data.root", "set"], "the images are not those that"),
    ],
)
def test_what_cannot_go_on_is_refused_and_nothing_changes(
    arguments: list[str],
    complaint: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    digits = {
        f"{split}/{label}/{n}.png": png(n) for split in ("train", "test") for label in range(10) for n in range(30)
    }
    write(tmp_path / "set", digits)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    cache = ["--data.cache_dir", str(tmp_path / "cache")]
    assert run_command(["fit", "-c", str(whole / "config.yaml"), *cache, *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_run_in_training_another_backend_and_a_damaged_state_are_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    again = ["fit", "-c", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "last"]
    with RunFolder(tmp_path / "run").locked():
        assert run_command(again) == 2
    assert "run is being trained by another process" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setitem(os.environ, "KERAS_BACKEND", "jax")
        assert run_command(again) == 2
    assert "started with Keras on tensorflow: set KERAS_BACKEND=tensorflow" in capsys.readouterr().err
    state = tmp_path / "run" / "checkpoints" / "last.npz"
    state.write_bytes(state.read_bytes()[:-100])
    assert run_command(again) == 2
    assert "last.npz is damaged" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_the_last_sound_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--trainer.default_root_dir", str(tmp_path), "--model.optimizer.name", "sgd", "--name", "run"]
    assert run_command([*FIT, *flags, "--model.optimizer.learning_rate", "1e30"]) == 2
    error = capsys.readouterr().err
    assert "the training loss is not finite in step " in error
    assert "(epoch 1); there is no earlier checkpoint" in error
    flags += ["--model.schedule.name", "constant"]  # with others a run cannot be continued for more epochs
    assert run_command([*FIT, *flags, "--trainer.max_epochs", "1", "--name", "broken"]) == 0
    run = tmp_path / "runs" / "vgg" / "broken"
    with np.load(run / "checkpoints" / "last.npz") as state:
        arrays = dict(state)
    classifier = next(name for name, array in arrays.items() if array.shape == (8, 10))
    arrays[classifier].fill(np.nan)  # in a convolution it would not show: TensorFlow's ReLU makes 0 of it
    np.savez(run / "checkpoints" / "last.npz", **arrays)
    before = (run / "checkpoints" / "last.npz").read_bytes()
    assert run_command(["fit", "-c", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert f"not finite in step 7 (epoch 2); the last intact checkpoint is {run}/checkpoints/last.npz" in error
    assert (run / "checkpoints" / "last.npz").read_bytes() == before


def test_the_best_checkpoint_is_the_first_with_the_highest_validation_accuracy_across_a_resume(
    tmp_path: Path, keras: Any
) -> None:
    from keras_reference.checkpoints import Checkpoints

    run = RunFolder(tmp_path)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    keeper = Checkpoints(run, model, keras.optimizers.SGD(), "val_acc")
    assert keeper.resume() == 0
    for epoch, val_acc in enumerate([0.25, 0.75, 0.5, 0.75]):
        model.set_weights([np.full((1, 1), epoch)])
        keeper.on_epoch_end(epoch, {"val_acc": val_acc})
        keeper = Checkpoints(run, model, keras.optimizers.SGD(), "val_acc")
        model.set_weights([np.full((1, 1), -1)])
        assert keeper.resume() == epoch + 1
        assert model.get_weights()[0].item() == epoch
    model.load_weights(run.checkpoint("best"))
    assert model.get_weights()[0].item() == 1


def test_a_checkpoint_is_there_whole_or_as_it_was(tmp_path: Path, keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_reference.checkpoints import Checkpoints

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    keeper = Checkpoints(RunFolder(tmp_path), model, keras.optimizers.SGD(), None)
    keeper.on_epoch_end(0, {})
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    assert set(before) == {"best.weights.h5", "last.npz"}

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        keeper.on_epoch_end(1, {})
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


@pytest.mark.parametrize("command", [["predict", "RUN", "image.png"], ["show", "filters", "RUN"]])
def test_what_needs_a_network_of_lightnings_says_so_of_a_run_of_kerass(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    given = {"RUN": str(whole), "image.png": str(image)}
    assert run_lightning([given.get(word, word) for word in command]) == 2
    assert f"{whole} was trained by Keras: `keras-reference export {whole}`" in capsys.readouterr().err


def test_lightning_does_not_go_on_with_a_run_of_kerass(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert run_lightning(["fit", "-c", str(whole / "config.yaml"), "--ckpt_path", "last"]) == 2
    assert f"{whole} was trained by Keras: continue it with keras-reference" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
