"""The run folder: names are unique, writes are atomic, and what is written reads back to the last digit."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_vgg.common.interruption import Interrupted
from lightning_vgg.runs import folder as runs
from lightning_vgg.runs.best import Quantity
from lightning_vgg.runs.curves import draw_curves
from lightning_vgg.runs.folder import HISTORY_COLUMNS, RunError, RunFolder, atomic_write, epoch_line


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "vgg", "first", 0)


def row(epoch: int, **values: float) -> dict[str, float]:
    return {"epoch": epoch, "step": 10 * epoch, **values}


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    paths = [RunFolder.create(tmp_path, "vgg", "base", 0).path for _ in range(3)]
    assert paths == [tmp_path / "runs" / "vgg" / name for name in ("base", "base-2", "base-3")]
    assert RunFolder.create(tmp_path, "other", "base", 0).path == tmp_path / "runs" / "other" / "base"


def test_a_run_without_a_name_is_called_by_time_and_seed(tmp_path: Path) -> None:
    name = RunFolder.create(tmp_path, "vgg", None, 17).path.name
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_seed17", name)


def test_threads_that_race_for_a_name_get_one_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: RunFolder.create(tmp_path, "vgg", "base", 0).path, range(64)))
    assert len(set(paths)) == 64
    assert {path.name for path in paths} == {"base"} | {f"base-{number}" for number in range(2, 65)}


def test_processes_that_race_for_a_name_get_one_each(tmp_path: Path) -> None:
    # Each waits for the start sign, so that they run at the same time.
    code = (
        "import sys; from pathlib import Path; from lightning_vgg.runs.folder import RunFolder; "
        "print('ready', flush=True); sys.stdin.readline(); "
        "[print(RunFolder.create(Path(sys.argv[1]), 'vgg', None, 0).path.name) for _ in range(40)]"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert len(names) == len(set(names)) == 80


def test_open_refuses_what_is_no_run(tmp_path: Path, run: RunFolder) -> None:
    for path in (tmp_path, tmp_path / "absent", run.path):  # the run has no config.yaml yet
        with pytest.raises(RunError, match=re.escape(f"{path} is not a run folder: it has no config.yaml")):
            RunFolder.open(path)
    run.write_config("experiment: vgg\n")
    assert RunFolder.open(run.path).path == run.path
    assert (run.path / "config.yaml").read_text() == "experiment: vgg\n"


def test_checkpoints(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has no best checkpoint"):
        run.checkpoint("best")
    # The newest, whatever its number: after a resume step 30 can come after step 100.
    for time, name in enumerate(("best_step100.ckpt", "best_step9.ckpt", "best_step30.ckpt", "last.ckpt")):
        write_zip(run.checkpoints / name)
        os.utime(run.checkpoints / name, (time, time))
    assert run.checkpoint("best").name == "best_step30.ckpt"
    assert run.checkpoint("last").name == "last.ckpt"


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", bytes(1000))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_of_damaged_checkpoints_the_newest_sound_one_is_taken_and_a_damaged_best_is_refused(
    damage: str, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for time, name in enumerate(("best_step9.ckpt", "best_step30.ckpt", "last.ckpt")):
        write_zip(run.checkpoints / name)
        os.utime(run.checkpoints / name, (time, time))
    for name in ("best_step30.ckpt", "last.ckpt"):
        contents = (run.checkpoints / name).read_bytes()
        spoilt = {"cut": contents[:500], "empty": b"", "flipped": contents[:600] + b"!" + contents[601:]}[damage]
        (run.checkpoints / name).write_bytes(spoilt)
        time = 1 if name == "best_step30.ckpt" else 2
        os.utime(run.checkpoints / name, (time, time))
    assert run.checkpoint("last").name == "best_step9.ckpt"
    said = capsys.readouterr().err
    assert "last.ckpt is damaged" in said and "best_step30.ckpt is damaged" in said
    with pytest.raises(
        RunError, match=r"best_step30\.ckpt is damaged .*; name an intact one by --ckpt_path: .*best_step9\.ckpt"
    ):
        run.checkpoint("best")


@pytest.mark.parametrize("name", ["a/b", "../other", "..", ".", "", " ", ".hidden", "a\\b", "/etc/run"])
def test_a_name_that_is_no_folders_name_is_refused(name: str, tmp_path: Path) -> None:
    for experiment, run_name in ((name, "run"), ("vgg", name)):
        with pytest.raises(RunError, match="must be a folder's name"):
            RunFolder.create(tmp_path, experiment, run_name, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_being_trained_is_refused_and_half_files_of_a_killed_process_go(run: RunFolder) -> None:
    half = run.checkpoints / ".last.ckpt.123.part"
    half.touch()
    with run.locked():
        assert not half.exists()
        with pytest.raises(RunError, match="is being trained by another process"), RunFolder(run.path).locked():
            pass
    with run.locked():
        pass


def test_a_full_disk_is_said_and_loses_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_config("old\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"the disk is full: .*config\.yaml"):
        run.write_config("new\n")
    assert (run.path / "config.yaml").read_text() == "old\n"
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "config.yaml"]


def test_the_newest_run_is_that_of_the_newest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no trained run in"):
        RunFolder.newest(tmp_path, "vgg", None)
    folders = {name: RunFolder.create(tmp_path, "vgg", name, 0) for name in ("b", "c", "a", "untrained")}
    for time, name in enumerate(("b", "c", "a")):
        (folders[name].checkpoints / "last.ckpt").touch()
        os.utime(folders[name].checkpoints / "last.ckpt", (time, time))
    assert RunFolder.newest(tmp_path, "vgg", None).path == folders["a"].path
    assert RunFolder.newest(tmp_path, "vgg", "b").path == folders["b"].path
    for experiment, run_name in (("other", None), ("vgg", "untrained"), ("vgg", "absent")):
        with pytest.raises(RunError, match="there is no trained run in"):
            RunFolder.newest(tmp_path, experiment, run_name)


# --- history and record -----------------------------------------------------------------------------------------------

measured = st.dictionaries(st.sampled_from(HISTORY_COLUMNS[2:]), st.floats(allow_nan=False), max_size=6)


@settings(max_examples=50)
@given(st.lists(measured, min_size=1, max_size=4))
def test_history_reads_back_to_the_last_digit(tmp_path_factory: pytest.TempPathFactory, values: list[dict]) -> None:
    run = RunFolder.create(tmp_path_factory.mktemp("history"), "vgg", None, 0)
    rows = [row(epoch, **more) for epoch, more in enumerate(values, start=1)]
    for each in rows:
        run.write_history(each)
    assert run.read_history() == rows
    for read in run.read_history():
        assert type(read["epoch"]) is type(read["step"]) is int
    assert (run.path / "history.csv").read_text().splitlines()[0] == ",".join(HISTORY_COLUMNS)


def test_history_takes_numpy_and_nan(run: RunFolder) -> None:
    run.write_history(row(1, train_loss=np.float64(0.1) + np.float64(0.2), val_loss=math.nan, val_acc=math.inf))
    (read,) = run.read_history()
    assert read["train_loss"] == 0.1 + 0.2
    assert math.isnan(read["val_loss"])
    assert read["val_acc"] == math.inf


def test_a_zero_is_not_left_out(run: RunFolder) -> None:
    run.write_history(row(1, train_acc=0.0))
    assert run.read_history() == [row(1, train_acc=0.0)]


def test_rows_left_by_an_interrupted_run_are_replaced(run: RunFolder) -> None:
    for epoch in range(1, 6):
        run.write_history(row(epoch, train_loss=float(epoch)))
    run.write_history(row(3, train_loss=0.5))
    assert run.read_history() == [row(1, train_loss=1.0), row(2, train_loss=2.0), row(3, train_loss=0.5)]
    run.write_history(row(4, train_loss=0.25))
    assert [each["train_loss"] for each in run.read_history()] == [1.0, 2.0, 0.5, 0.25]


MATRIX = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 0]])


def test_classes_have_a_row_each_and_those_left_by_an_interrupted_run_are_replaced(run: RunFolder) -> None:
    run.write_classes(1, None)
    assert not (run.path / "val_classes.csv").exists()
    run.update_record(class_names=["Käfer, rot", "ox", 'the "eel"\nof old'])
    for epoch in (2, 4, 6):
        run.write_classes(epoch, MATRIX)
    run.write_classes(5, None)  # no validation in this epoch
    with (run.path / "val_classes.csv").open(newline="", encoding="utf-8") as file:
        rows = [*csv.reader(file)]
    of_epoch = [
        ["Käfer, rot", "0.6", "0.75", str(2 / 3), "4"],
        ["ox", "0.0", "", "0.0", "0"],
        ['the "eel" of old', "", "0.0", "0.0", "2"],
    ]
    assert rows == [
        ["epoch", "class", "precision", "recall", "f1", "images"],
        *(["2", *row] for row in of_epoch),
        *(["4", *row] for row in of_epoch),
    ]


def test_a_history_from_before_a_column_was_measured_is_continued(run: RunFolder) -> None:
    (run.path / "history.csv").write_text("epoch,step,val_acc,seconds\n1,10,0.5,1.0\n2,20,0.75,1.0\n")
    run.write_history(row(2, val_acc=0.25, val_balanced_acc=0.125))
    assert run.read_history() == [row(1, val_acc=0.5, seconds=1.0), row(2, val_acc=0.25, val_balanced_acc=0.125)]


def test_a_column_that_is_unknown_is_refused(run: RunFolder) -> None:
    run.write_history(row(1))
    with pytest.raises(ValueError, match="accuracy"):
        run.write_history(row(2, accuracy=0.5))
    assert run.read_history() == [row(1)]


def test_a_run_that_has_not_begun(run: RunFolder) -> None:
    assert run.read_history() == []
    assert run.read_record() == {}


def test_the_record_keeps_its_other_keys(run: RunFolder) -> None:
    run.update_record(framework="lightning", seed=0, test_acc=0.1 + 0.2)
    run.update_record(seed=3, class_names=["0", "ä"])
    expected = {"framework": "lightning", "seed": 3, "test_acc": 0.1 + 0.2, "class_names": ["0", "ä"]}
    assert run.read_record() == json.loads((run.path / "run.json").read_text()) == expected


def test_predictions_read_back(run: RunFolder) -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 10, 30), random.normal(size=(30, 10)).astype(np.float32)
    run.write_predictions(labels, logits)
    read_labels, read_logits = run.read_predictions()
    assert read_labels.dtype == np.int64
    assert read_logits.dtype == np.float32
    np.testing.assert_array_equal(read_labels, labels)
    np.testing.assert_array_equal(read_logits, logits)


# --- atomic writes ----------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write(b"n" * 100_000)
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "n" * 100_000
    assert names(tmp_path) == ["run.json"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise kind

    with pytest.raises(kind):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["run.json"]


def test_an_error_in_the_move_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "run.json") as file:
        file.write(b"new")
    assert names(tmp_path) == ["run.json"]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "file") as file:
        file.write(b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


def test_every_write_of_a_run_is_atomic(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the move out of order no file appears."""

    def fail(*_: object) -> None:
        raise OSError("no move")

    monkeypatch.setattr(runs.os, "replace", fail)
    monkeypatch.setattr(RunFolder, "read_record", lambda _: {"class_names": ["a", "b", "c"]})
    for write in (
        lambda: run.write_config("x"),
        lambda: run.write_history(row(1)),
        lambda: run.write_classes(1, MATRIX),
        lambda: run.update_record(seed=0),
        lambda: run.write_predictions(np.zeros(1), np.zeros((1, 2))),
        run.write_curves,
    ):
        with pytest.raises(OSError, match="no move"):
            write()
        assert names(run.path) == ["checkpoints"]


# --- curves -----------------------------------------------------------------------------------------------------------


def full_row(epoch: int) -> dict[str, float]:
    return row(epoch, train_loss=2 / epoch, train_acc=0.5, val_loss=2.1 / epoch, val_acc=1 - 0.5 / epoch)


def picture(
    history: list[dict[str, float]],
    title: str = "vgg · base",
    test_acc: float | None = None,
    best_by: Quantity = "val_acc",
) -> np.ndarray:
    file = io.BytesIO()
    draw_curves(history, best_by, title, test_acc, file)
    image = Image.open(file)
    assert image.format == "PNG"
    assert image.size == (1600, 700)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    "history",
    [
        [],
        [full_row(1)],
        [full_row(epoch) for epoch in range(1, 31)],
        [row(epoch, train_loss=1 / epoch, train_acc=0.5) for epoch in (1, 2, 3)],
        [row(1, val_loss=1.0, val_acc=0.5)],
        [full_row(1), row(2, train_loss=0.5, train_acc=0.6), full_row(3)],
        [row(1, train_loss=math.nan, train_acc=0.1, val_loss=math.inf, val_acc=0.1), full_row(2)],
    ],
    ids=["none", "one epoch", "thirty", "no validation", "validation only", "validation now and then", "diverged"],
)
def test_curves_of_any_history(history: list[dict[str, float]]) -> None:
    drawn = picture(history)
    empty = picture([], title="")
    assert (drawn != empty).any()


def colour_share(image: np.ndarray, colour: str, half: slice) -> float:
    """Share of the pixels that have about this colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (0, 2, 4)])
    return float((np.abs(image[:, half].astype(int) - wanted).max(-1) < 12).mean())


LEFT, RIGHT = slice(0, 800), slice(800, None)
TRAINING, VALIDATION, TEST = "8a96a3", "1f6feb", "cf222e"


def test_each_curve_is_drawn_where_it_belongs() -> None:
    history = [full_row(epoch) for epoch in range(1, 6)]
    both = picture(history)
    for half in (LEFT, RIGHT):
        assert colour_share(both, TRAINING, half) > 3e-4
        assert colour_share(both, VALIDATION, half) > 3e-4
        assert colour_share(both, TEST, half) == 0
    alone = picture([{key: value for key, value in each.items() if "val" not in key} for each in history])
    assert colour_share(alone, VALIDATION, LEFT) == colour_share(alone, VALIDATION, RIGHT) == 0
    tested = picture(history, test_acc=0.0)
    assert colour_share(tested, TEST, LEFT) == 0
    assert colour_share(tested, TEST, RIGHT) > 3e-4


def test_the_circle_is_on_the_curve_that_chooses_the_best_epoch() -> None:
    history = [full_row(epoch) for epoch in range(1, 6)]
    by_accuracy, by_loss = picture(history), picture(history, best_by="val_loss")
    for half, more, less in ((LEFT, by_loss, by_accuracy), (RIGHT, by_accuracy, by_loss)):
        assert colour_share(more, VALIDATION, half) > colour_share(less, VALIDATION, half)


def test_the_quantity_over_the_classes_that_chooses_is_drawn_too() -> None:
    history = [full_row(epoch) | {"val_macro_f1": 0.8 - 0.5 / epoch} for epoch in range(1, 6)]
    by_accuracy, by_f1 = picture(history), picture(history, best_by="val_macro_f1")
    assert (by_accuracy[:, LEFT] == by_f1[:, LEFT]).all()
    assert colour_share(by_f1, VALIDATION, RIGHT) > 1.2 * colour_share(by_accuracy, VALIDATION, RIGHT)


def test_a_line_an_epoch_names_what_chooses_the_best_one() -> None:
    measured = full_row(2) | {"val_balanced_acc": 0.25, "seconds": 1.25}
    line = "epoch   2/9  train_loss 1.0000  train_acc 50.00%  val_loss 1.0500  val_acc 75.00%"
    assert epoch_line(measured, 9, "val_acc") == f"{line}  1.2 s"
    assert epoch_line(measured, 9, "val_balanced_acc") == f"{line}  val_balanced_acc 25.00%  1.2 s"


def test_the_result_of_unbalanced_classes_says_more_than_the_accuracy(run: RunFolder) -> None:
    run.write_history(full_row(1))
    results = {"test_acc": 0.9, "test_loss": 0.5, "test_balanced_acc": 0.6, "test_macro_f1": 0.55, "checkpoint": "x"}
    run.update_record(**results)  # as older versions have it, without what follows
    assert "test_balanced_acc" not in runs.test_lines(run)
    run.update_record(images_per_class={"train": {"cat": 10, "dog": 9}})
    assert "test_balanced_acc" not in runs.test_lines(run)
    run.update_record(images_per_class={"train": {"cat": 100, "dog": 9}})
    assert runs.test_lines(run).splitlines()[:2] == [
        "test_acc 90.00%  test_loss 0.5000  of x",
        "test_balanced_acc 60.00%  test_macro_f1 55.00%",
    ]


def test_curves_in_the_run_folder(run: RunFolder) -> None:
    run.write_history(full_row(1))
    run.update_record(test_acc=0.75)
    run.write_curves()
    with Image.open(run.path / "curves.png") as image:
        assert image.size == (1600, 700)
        assert colour_share(np.asarray(image.convert("RGB")), TEST, RIGHT) > 3e-4
        np.testing.assert_array_equal(image, run.plot())


def test_curves_are_not_drawn_with_every_short_epoch(run: RunFolder) -> None:
    """A head's epoch takes as long as they do."""
    curves = run.path / "curves.png"
    for epoch in (1, 2):
        run.write_history(full_row(epoch))
        run.refresh_curves()
    first = curves.read_bytes()
    assert first != drawn_anew(run)
    age(curves, 6)
    run.refresh_curves()
    assert curves.read_bytes() == drawn_anew(run) != first


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt, Interrupted(15)])
def test_after_a_training_the_curves_show_the_whole_history(run: RunFolder, stop: BaseException | None) -> None:
    with contextlib.suppress(BaseException), run.being_trained():
        run.write_history(full_row(1))
        run.refresh_curves()
        age(run.path / "curves.png", 1)
        run.write_history(full_row(2))
        run.refresh_curves()
        if stop is not None:
            raise stop
    assert (run.path / "curves.png").read_bytes() == drawn_anew(run)


def test_a_training_without_a_whole_epoch_leaves_no_curves(run: RunFolder) -> None:
    with run.being_trained():
        pass
    assert not (run.path / "curves.png").exists()


def age(file: Path, seconds: float) -> None:
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


def drawn_anew(run: RunFolder) -> bytes:
    file = io.BytesIO()
    draw_curves(run.read_history(), "val_acc", f"{run.path.parent.name} · {run.path.name}", None, file)
    return file.getvalue()


def test_a_run_has_a_test_accuracy_once_it_was_tested(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has not been tested"):
        _ = run.test_acc
    run.update_record(test_acc=0.75)
    assert run.test_acc == 0.75
    run.write_config("experiment: vgg")
    assert RunFolder.open(run).test_acc == RunFolder.open(str(run.path)).test_acc == 0.75
