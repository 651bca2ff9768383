"""The command line as users run it: real files, and real processes where it matters."""

from __future__ import annotations

import csv
import json
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, Command, history_without_seconds, only_run, run_in
from made_images import png, write
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, recall_score

from lightning_vgg.experiment.specs import MOVED
from lightning_vgg.runs.folder import MEASURED

QUICKSTART = CONFIGS / "quickstart.yaml"
SHORT = (
    *("-c", QUICKSTART, "--trainer.max_epochs", "2", "--data.train_images", "400", "--data.eval_batch_size", "100"),
    *("--model.schedule.name", "constant"),  # with others a run cannot be continued for more epochs
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which one fit has run."""
    folder = tmp_path_factory.mktemp("trained")
    result = run_in(folder)("fit", *SHORT)
    (folder / "output.txt").write_text(result.stdout + result.stderr)
    return folder


def test_fit_leaves_a_whole_run_folder_and_nothing_else(trained: Path) -> None:
    run = only_run(trained)
    assert sorted(path.name for path in trained.iterdir()) == ["output.txt", "runs"]
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "curves.png",
        "history.csv",
        "run.json",
        "test_predictions.npz",
        "val_classes.csv",
        "wandb",
    ]
    with Image.open(run / "curves.png") as picture:
        assert picture.size == (1600, 700)
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "12"), ("2", "24")]
    assert all(float(row[column]) > 0 for row in rows for column in row)


def test_fit_says_an_epoch_a_line_and_which_checkpoint_it_tested(trained: Path) -> None:
    output = (trained / "output.txt").read_text()
    record = json.loads((only_run(trained) / "run.json").read_text())
    assert [line.split()[1] for line in output.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert f"test_acc {record['test_acc']:.2%}" in output
    assert record["checkpoint"] in output
    assert Path(record["checkpoint"]).name.startswith("best_step")
    assert "Traceback" not in output and "Warning" not in output and "unbalanced" not in output


def test_recorded_test_results_equal_those_of_scikit_learn(trained: Path) -> None:
    run = only_run(trained)
    record = json.loads((run / "run.json").read_text())
    with np.load(run / "test_predictions.npz") as arrays:
        labels, logits = arrays["labels"], arrays["logits"].astype(np.float64)
    assert len(labels) == 360
    assert record["test_acc"] == accuracy_score(labels, logits.argmax(1))
    assert record["test_acc_per_class"] == pytest.approx(recall_score(labels, logits.argmax(1), average=None))
    assert record["test_balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert record["test_macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert record["test_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


def test_the_tested_checkpoint_has_the_best_validation_accuracy(trained: Path) -> None:
    run = only_run(trained)
    with (run / "history.csv").open() as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["val_acc"]))
    assert json.loads((run / "run.json").read_text())["checkpoint"].endswith(f"best_step{best['step']}.ckpt")


def test_a_runs_config_trains_it_again_to_the_last_digit(trained: Path, command: Command, tmp_path: Path) -> None:
    run = only_run(trained)
    for _ in range(2):
        command("fit", "-c", run / "config.yaml")
    again = sorted(path.parent for path in tmp_path.glob("runs/*/*/config.yaml"))
    assert len(again) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    for other in again:
        assert history_without_seconds(other) == history_without_seconds(run)
        assert (other / "config.yaml").read_text() == (run / "config.yaml").read_text()


def test_another_seed_trains_other_weights_on_the_same_validation_images(
    trained: Path, command: Command, tmp_path: Path
) -> None:
    command("fit", *SHORT, "--seed_everything", "1", "--name", "other", "--trainer.logger", "false")
    other = only_run(tmp_path)
    assert other.name == "other"
    assert history_without_seconds(other) != history_without_seconds(only_run(trained))
    records = [json.loads((run / "run.json").read_text()) for run in (other, only_run(trained))]
    assert records[0]["normalization"] == records[1]["normalization"]  # of the training part, so the split is the same


def test_test_and_validate_repeat_the_results_of_the_best_checkpoint(trained: Path, command: Command) -> None:
    run = only_run(trained)
    before = json.loads((run / "run.json").read_text())
    result = command("test", "-c", run / "config.yaml")
    assert f"test_acc {before['test_acc']:.2%}" in result.stdout
    assert json.loads((run / "run.json").read_text()) == before
    with (run / "history.csv").open() as file:
        best = max(float(row["val_acc"]) for row in csv.DictReader(file))
    result = command("validate", "-c", run / "config.yaml", "--ckpt_path", "best")
    assert str(best)[:8] in result.stdout


def test_a_run_whose_keys_have_moved_since_is_tested_and_continued(
    trained: Path, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "old"
    shutil.copytree(only_run(trained), run)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    tricks = settings["model"].pop("tricks")
    for old, new in MOVED.items():
        _, *groups, name = old.split(".")
        place = settings["model"]
        for group in groups:
            place = place[group]
        place[name] = tricks.pop(new.rpartition(".")[2])
    assert tricks == {}
    for path in (run / "checkpoints").iterdir():  # the epoch's images were counted otherwise, too
        checkpoint = torch.load(path, weights_only=True)
        sums = checkpoint["train_sums"]
        matrix = sums["confusion"]
        counts = {"tp": matrix.diag(), "fn": matrix.sum(1) - matrix.diag()}
        checkpoint["train_sums"] = {"loss": {"total": sums["loss_sum"]}, "counts": counts}
        torch.save(checkpoint, path)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    before = json.loads((run / "run.json").read_text())
    command("test", "-c", run / "config.yaml")
    assert json.loads((run / "run.json").read_text()) == before
    command("fit", "-c", run / "config.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert len(history_without_seconds(run)) == 1 + 3
    assert "tricks" in yaml.safe_load((run / "config.yaml").read_text())["model"]


def test_predict_names_the_class_and_its_probability(trained: Path, command: Command, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    for number, image in enumerate(load_digits().images[:3]):
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(tmp_path / f"{number}.png")
    lines = command("predict", only_run(trained), tmp_path / "0.png", tmp_path).stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == lines[1]
    for line in lines:
        _, name, probability = line.split()
        assert name in "0123456789"
        assert 10 <= float(probability.rstrip("%")) <= 100


def test_predict_writes_a_table_and_a_gallery(trained: Path, command: Command, tmp_path: Path) -> None:
    for shade in (0, 200):
        Image.new("L", (8, 8), shade).save(tmp_path / f"<{shade}>.png")
    lines = command("predict", only_run(trained), tmp_path, "--csv", "found.csv", "--gallery", "found.html").stdout
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["<0>.png", "<200>.png"]
    for row, line in zip(rows, lines.splitlines(), strict=True):
        probabilities = {name: float(row[name]) for name in map(str, range(10))}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(probabilities, key=lambda name: probabilities[name])
        assert f"  {row['label']}  {probabilities[row['label']]:.1%}" in line
    page = (tmp_path / "found.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and "&lt;200&gt;.png" in page and 'src="http' not in page
    error = command("predict", only_run(trained), tmp_path / "<0>.png", "--csv", "nowhere/x.csv", status=2).stderr
    assert "there is no folder nowhere for x.csv" in error


def test_predict_refuses_what_is_no_run_and_what_is_no_image(trained: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no image")
    assert "is not a run folder" in command("predict", tmp_path, tmp_path, status=2).stderr
    assert "note.png" in command("predict", only_run(trained), tmp_path / "note.png", status=2).stderr


def test_wandb_holds_every_curve_and_the_configuration_once_without_a_connection(tmp_path: Path) -> None:
    connections = []

    class Count(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), Count) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run_in(tmp_path)("fit", *SHORT, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert connections == []
    (file,) = only_run(tmp_path).glob("wandb/offline-run-*/*.wandb")
    inspect = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", file]
    records = [json.loads(line) for line in subprocess.check_output(inspect, text=True).splitlines()]
    points = [record["history"]["item"] for record in records if record["type"] == "history"]
    with (only_run(tmp_path) / "history.csv").open() as csv_file:
        rows = list(csv.DictReader(csv_file))
    for name in MEASURED:
        curve = [(point["trainer/global_step"], point[name]) for point in points if name in point]
        assert curve == [(int(row["step"]) - 1, float(row[name])) for row in rows], name
    configuration = next(record["run"]["config"]["update"] for record in records if record["type"] == "run")
    saved = yaml.safe_load((only_run(tmp_path) / "config.yaml").read_text())
    assert {key: value for key, value in configuration.items() if key != "_wandb"} == saved


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fitt"], "unknown command 'fitt'; did you mean 'fit'?"),
        (["fit", "--model.network.filter", "[1]"], "--model.network.filter; did you mean 'model.network.filters'?"),
        (["fit", "--trainer.max_epoch", "1"], "--trainer.max_epoch; did you mean 'trainer.max_epochs'?"),
        (["fit", "--model.max_epochs", "1"], "--model.max_epochs; did you mean 'trainer.max_epochs'?"),
        (["fit", "-c", "missing.yaml"], "missing.yaml: No such file"),
        (["fit", "-c", "typo.yaml"], "typo.yaml, line 3: unknown key 'model.network.filtres'; did you mean 'model.net"),
        (["fit", "--model.network.conv_block", "maxpol"], "did you mean 'maxpool'?\n  maxpol\n  ^^^^^^"),
        (["fit", "--model.network.filters", "[8,8,8,8,8,8]"], "block6 (conv"),
        (["fit", "--data.source", "folder", "--data.root", "nowhere"], "nowhere"),
        (["fit", "--model.optimizer.learning_rate", "-1"], "optimizer.learning_rate must be above 0"),
        (["fit", "--model.semantics_except", "[batch_norm_epsilom]"], "did you mean 'batch_norm_epsilon'?"),
        (["test"], "there is no trained run in runs/vgg"),
        (["test", "--ckpt_path", "nowhere/checkpoints/last.ckpt"], "nowhere"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback_and_before_anything_is_written(
    arguments: list[str], complaint: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "typo.yaml").write_text("model:\n  network:\n    filtres: [1]\n")
    error = command(*arguments, status=2).stderr
    assert complaint in error
    assert error.startswith("lightning-vgg: error: ")
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["typo.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in ("fit", "test", "predict", "compare", "dashboard", "report", "tune", "show")),
    ],
)
def test_help_loads_no_framework(arguments: list[str]) -> None:
    code = (
        "import sys, contextlib\nfrom lightning_vgg.cli import run\n"
        f"with contextlib.suppress(SystemExit): run({arguments})\n"
        "heavy = {'torch', 'lightning', 'keras', 'tensorflow', 'wandb', 'sklearn', 'matplotlib', 'optuna'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "usage: lightning-vgg" in output
    assert output.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fit", "--model.network.conv_block", "conv - maxpol"], "did you mean 'maxpool'?"),
        (
            ["fit", "--trainer.devices", "1", "--model.network.filters=[3,x]", "--ckpt_path", "last"],
            "model.network.filters",
        ),
        (["fit", "-c", "wrong.yaml", "--trainer.max_epochs=1"], "block6 (conv"),
        (["test", "-c", "twice.yaml"], "line 2: the key 'name' appears twice"),
        (["fit", "--model.semantics_except", "[batch_norm_epsilom]"], "did you mean 'batch_norm_epsilon'?"),
    ],
)
def test_a_wrong_experiment_is_told_before_a_framework_is_loaded(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text(
        "model: {network: {filters: [8, 8, 8, 8, 8, 8]}}\ntrainer: {devices: 1, callbacks: null}\n"
    )
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    code = (
        f"import sys\nfrom lightning_vgg.cli import run\nprint(run({arguments}))\n"
        "print(sorted({'torch', 'lightning', 'wandb', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["2", "[]"]
    assert complaint in result.stderr


def test_settings_may_be_printed_of_a_network_that_cannot_be_built(command: Command) -> None:
    printed = command("fit", "--model.network.filters", "[8,8,8,8,8,8]", "--print_config").stdout
    assert yaml.safe_load(printed)["model"]["network"]["filters"] == [8] * 6


def test_a_resumed_run_goes_on_in_its_own_folder_and_ends_like_an_uninterrupted_one(
    command: Command, tmp_path: Path
) -> None:
    command("fit", *SHORT, "--name", "whole", "--trainer.logger", "false")
    command("fit", *SHORT, "--name", "stopped", "--trainer.logger", "false", "--trainer.max_steps", "12")
    runs = tmp_path / "runs" / "quickstart"
    assert len(history_without_seconds(runs / "stopped")) == 2
    command("fit", *SHORT, "--name", "stopped", "--trainer.logger", "false", "--ckpt_path", "last")
    assert sorted(path.name for path in runs.iterdir()) == ["stopped", "whole"]
    assert history_without_seconds(runs / "stopped") == history_without_seconds(runs / "whole")
    logits = [np.load(runs / name / "test_predictions.npz")["logits"] for name in ("stopped", "whole")]
    np.testing.assert_array_equal(*logits)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_the_last_sound_checkpoint(
    command: Command, tmp_path: Path
) -> None:
    flags = ("--model.network.conv_block", "conv - maxpool", "--trainer.logger", "false", "--name", "run")
    command("fit", *SHORT, *flags, "--trainer.max_epochs", "1")
    last = only_run(tmp_path) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"]["network.classifier.weight"][0, 0] = torch.nan
    torch.save(checkpoint, last)
    before = last.read_bytes()
    error = command("fit", *SHORT, *flags, "--ckpt_path", "last", status=2).stderr
    assert "the training loss is not finite in step 13 (epoch 2); the last intact checkpoint is" in error
    assert "Traceback" not in error
    assert last.read_bytes() == before
    assert len(history_without_seconds(only_run(tmp_path))) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Eight megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_the_run_with_the_reason_and_what_was_there_stays(
    trained: Path, command: Command, small_disk: Path
) -> None:
    run = small_disk / "run"
    shutil.copytree(only_run(trained), run)
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    history = history_without_seconds(run)
    room = 100_000  # for a row of the history and the curves, and for no checkpoint
    assert room < min(map(len, before.values()))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    again = (
        "fit",
        "-c",
        run / "config.yaml",
        "--ckpt_path",
        "last",
        "--trainer.max_epochs",
        "3",
        "--trainer.logger",
        "false",
    )
    error = command(*again, status=2).stderr
    assert "the disk is full: " in error and "What was there is unchanged" in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    assert history_without_seconds(run)[:3] == history
    (small_disk / "filler").unlink()
    command(*again)
    assert len(history_without_seconds(run)) == 4


def test_a_run_does_not_go_on_with_other_images(trained: Path, command: Command, tmp_path: Path) -> None:
    run = only_run(trained)
    others = {f"{split}/{n % 10}/{n}.png": png(n % 256) for split in ("train", "test") for n in range(450)}
    write(tmp_path / "set", others)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    error = command(
        "fit",
        "-c",
        run / "config.yaml",
        "--ckpt_path",
        "last",
        "--data.source",
        "folder",
        "--data.root",
        "set",
        "--data.cache_dir",
        "cache",
        status=2,
    ).stderr
    assert f"the images are not those that {run} was started with" in error
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
