"""Tuning: the search space, the study in its storages, and whole studies as users run them."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import BIN, CONFIGS, history_without_seconds, printed_by, run_here, run_in, wandb_records
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightning_vgg.common.errors import Diverged, ExperimentError
from lightning_vgg.common.interruption import Interrupted
from lightning_vgg.experiment.settings import plain_settings
from lightning_vgg.experiment.specs import MOVED, ExperimentSpec
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.tune import study as studies
from lightning_vgg.tune import worker
from lightning_vgg.tune.alive import alive, is_alive
from lightning_vgg.tune.space import Range, as_text, decode
from lightning_vgg.tune.spec import StudySettings, read_settings, tune_parser
from lightning_vgg.tune.study import best_trial, fail_dead_trials, open_study, trials_left
from lightning_vgg.tune.summary import closing_words, savings, write_report, write_results

SPACE = {
    "model.network.conv_block": ["conv - maxpool - dropout", "Block: conv - batch norm - conv - maxpool"],
    "model.network.filters": [[4], [8], [4, 8]],
    "model.network.dropout": {"low": 0, "high": 0.5},
    "model.optimizer.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True},
    "data.batch_size": {"low": 16, "high": 64, "step": 16},
    "data.augmentation.flip": [False, True],
}
SMALL = {
    "experiment": "small",
    "model": {"network": {"filters": [8], "units": [16]}},
    "data": {"source": "digits", "image_size": 8, "train_images": 300, "eval_batch_size": 400},
    "trainer": {"max_epochs": 4},
    "tune": {"startup_trials": 2, "space": SPACE},
}


def write_small(folder: Path, **changes: Any) -> Path:
    """A study of trials that take less than a second; changes by dotted keys, with __ for the dots."""
    values = copy.deepcopy(SMALL)
    for key, value in changes.items():
        *groups, last = key.split("__")
        node: Any = values
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def small(folder: Path, *args: str, **changes: Any) -> StudySettings:
    changes = {"trainer__default_root_dir": str(folder), **changes}
    return read_settings(tune_parser().read(["-c", str(write_small(folder, **changes)), *args]))


# The search space


def test_a_space_is_read_with_the_types_of_the_experiments_keys(tmp_path: Path) -> None:
    space = small(tmp_path).space
    assert space["model.network.dropout"] == Range(0.0, 0.5)
    assert isinstance(space["model.network.dropout"].low, float)  # written as 0
    assert space["data.batch_size"] == Range(16, 64, step=16)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    for key, parameter in space.items():
        parameter.suggest(trial, key)
    values = decode(space, trial.params)
    assert values["model.network.filters"] in SPACE["model.network.filters"]
    assert isinstance(values["data.augmentation.flip"], bool)
    assert values["data.batch_size"] in (16, 32, 48, 64)
    experiment = small(tmp_path).experiment_of(trial.params)
    assert experiment.model.network.filters == values["model.network.filters"]
    assert small(tmp_path).experiment.model.network.filters == [8]  # stays as it was


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        ({}, "tune.space is empty"),
        ({"model.network.filtres": [[1], [2]]}, "'model.network.filtres'; did you mean 'model.network.filters'?"),
        ({"data.split_seed": [0, 1]}, "data.split_seed cannot be varied"),
        ({"model.network.dropout": {"low": 0.0, "high": 1.5}}, "network.dropout lies in [0, 1), not 1.5"),
        ({"model.network.filters": [[8], "many"]}, "model.network.filters, the value many"),
        ({"model.network.conv_block": ["conv - maxpool", "conv - maxpol"]}, "did you mean 'maxpool'?"),
        ({"model.network.dropout": [0.1, 0.1]}, "two different choices"),
        ({"model.network.dropout": 0.3}, "model.network.dropout is 0.3; write a list of choices, or a range"),
        ({"model.network.dropout": {"low": 0.1}}, "needs numbers as low and high"),
        ({"model.network.dropout": {"low": 0.1, "hihg": 0.2}}, "'hihg'"),
        ({"model.network.dropout": {"low": 0.3, "high": 0.1}}, "low below high"),
        ({"model.network.dropout": {"low": 0.0, "high": 0.1, "log": True}}, "with log needs low above 0"),
        ({"model.backbone.layer": ["block1_pool", "block2_pool"]}, "model.backbone is null"),
        (
            {"model.network.filters": [[4], [4, 4, 4, 4]], "model.network.dropout": {"low": 0.1, "high": 0.2}},
            "this combination cannot be built: ",
        ),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_the_name_of_the_key(
    space: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError) as caught:
        small(tmp_path, tune__space=space)
    assert complaint in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tune.yaml"]


@pytest.mark.parametrize(
    ("changes", "args", "complaint"),
    [
        ({"name": "mine"}, [], "a study names its runs itself"),
        ({"data__validation_fraction": 0.0}, [], "needs validation images"),
        ({"tune__objectives": ["parameters"]}, [], "begin with val_acc"),
        ({"tune__objective": ["val_acc"]}, [], "did you mean 'tune.objectives'?"),
        ({}, ["--trials", "0"], "--trials and --jobs must be at least 1"),
        ({"model__semantics": "torch"}, ["--framework", "keras"], "does not implement model.semantics"),
        (
            {"tune__space": {"model.channels_last": [True, False]}},
            ["--framework", "keras"],
            "does not implement model.channels_last",
        ),
    ],
)
def test_other_settings_that_cannot_be_are_refused(
    changes: dict[str, Any], args: list[str], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError, match=complaint.replace("?", r"\?")):
        small(tmp_path, *args, **changes)


def test_the_file_is_checked_without_any_framework(tmp_path: Path) -> None:
    path = write_small(tmp_path, tune__space={"model.network.filtres": [[1], [2]]})
    code = (
        "import sys\nfrom lightning_vgg.cli import run\n"
        f"status = run(['tune', '-c', {str(path)!r}, '--framework', 'keras'])\n"
        "heavy = {'torch', 'lightning', 'keras', 'tensorflow', 'wandb', 'optuna', 'plotly'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    assert printed_by(code) == "2 []\n"


def test_the_shipped_study_is_sound() -> None:
    settings = read_settings(tune_parser().read(["-c", str(CONFIGS / "tune" / "vgg.yaml")]))
    default = yaml.safe_load((CONFIGS / "vgg" / "base.yaml").read_text())["model"]
    for key, value in {"network": default["network"], **default["optimizer"]}.items():
        place = plain_settings(settings.experiment)["model"]
        ours = place["network"] if key == "network" else {key: place["optimizer"][key]}
        assert value.items() <= ours.items() if key == "network" else ours[key] == value  # the lesson's network


# The study


def search(settings: StudySettings, trials: int) -> None:
    """So many trials by a new worker, without a training: the value of one is its dropout."""
    study = open_study(settings)

    def objective(trial: optuna.Trial, settings: StudySettings) -> list[float]:
        for key, parameter in settings.space.items():
            parameter.suggest(trial, key)
        value = trial.params["model.network.dropout"]
        measured = {"val_acc": value, "epochs": 4, "seconds": 2.0, "parameters": 100, "images_per_second": 9.0}
        for name, number in {**measured, "run": f"trial{trial.number:04}"}.items():
            trial.set_user_attr(name, number)
        return [value, *[-value] * (len(settings.tune.objectives) - 1)]

    with alive(settings.folder) as name:
        for _ in range(trials):
            assert worker.run_trial(study, settings, name, objective) is not None


class Killed(BaseException):
    """Of a worker; carries its trial."""


def begin(study: optuna.Study, settings: StudySettings, name: str) -> optuna.Trial | None:
    """The trial of a worker that is killed while it runs: nothing more is said of it."""

    def objective(trial: optuna.Trial, settings: StudySettings) -> list[float]:
        patch.setattr(study, "tell", lambda *args, **options: None)
        raise Killed(trial)

    with pytest.MonkeyPatch.context() as patch:
        try:
            number = worker.run_trial(study, settings, name, objective)
        except Killed as killed:
            return killed.args[0]
    assert number is None
    return None


def params(settings: StudySettings) -> list[dict[str, Any]]:
    return [trial.params for trial in open_study(settings).trials]


def test_a_seed_searches_the_same_whether_interrupted_or_not_and_draws_nothing_twice(tmp_path: Path) -> None:
    whole, parts, other = (
        small(tmp_path, experiment=name, seed_everything=seed)
        for name, seed in (("whole", 1), ("parts", 1), ("other", 2))
    )
    search(whole, 6)
    for trials in (1, 2, 3):
        study = open_study(parts)
        with alive(parts.folder) as name:  # dies at its trial
            interrupted = begin(study, parts, name)
            assert interrupted is not None
            interrupted.suggest_float("model.network.dropout", 0, 0.5)
        search(parts, trials)
    search(other, 1)
    finished = [trial for trial in open_study(parts).trials if trial.state == TrialState.COMPLETE]
    assert len(open_study(parts).trials) == 9
    assert params(whole) == [trial.params for trial in finished]
    assert all(one != another for one, another in itertools.combinations(params(whole), 2))
    assert params(other)[0] != params(whole)[0]


def test_the_search_learns(tmp_path: Path) -> None:
    """Of a value that is the dropout itself, TPE finds higher ones than chance does."""
    settings = small(tmp_path, tune__startup_trials=5, trainer__max_epochs=1)
    search(settings, 25)
    dropouts = [values["model.network.dropout"] for values in params(settings)]
    assert sum(dropouts[-10:]) / 10 > 0.4 > sum(dropouts[:5]) / 5


def test_only_as_many_trials_begin_as_are_wanted_and_dead_ones_do_not_count(tmp_path: Path) -> None:
    settings = small(tmp_path, "--trials", "2")
    search(settings, 1)
    study = open_study(settings)
    with alive(settings.folder) as name:
        running = begin(study, settings, name)
        assert running is not None
        with alive(settings.folder) as another:
            assert begin(study, settings, another) is None  # one finished, one under way
        assert study.trials[running.number].state == TrialState.RUNNING
    with alive(settings.folder) as name:
        assert begin(study, settings, name) is not None
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "RUNNING"]


def test_a_worker_begins_a_trial_while_another_runs_one(tmp_path: Path) -> None:
    settings = small(tmp_path)

    def objective(trial: optuna.Trial, settings: StudySettings) -> list[float]:
        assert worker.run_trial(open_study(settings), settings, "another", lambda trial, settings: [0.5]) == 1
        return [0.5]

    with alive(settings.folder) as name:
        assert worker.run_trial(open_study(settings), settings, name, objective) == 0


@pytest.mark.parametrize("error", [Interrupted(15), KeyboardInterrupt(), RuntimeError("a bug")], ids=repr)
def test_a_trial_that_is_stopped_has_failed(error: BaseException, tmp_path: Path) -> None:
    settings = small(tmp_path)
    study = open_study(settings)

    def objective(trial: optuna.Trial, settings: StudySettings) -> list[float]:
        raise error

    with alive(settings.folder) as name:
        with pytest.raises(type(error)):
            worker.run_trial(study, settings, name, objective)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL]
        assert worker.run_trial(study, settings, name, lambda trial, settings: [0.5]) == 1


COUNTING_WORKER = """
import sys
from lightning_vgg.tune import worker
from lightning_vgg.tune.alive import alive
from lightning_vgg.tune.spec import read_settings, tune_parser
from lightning_vgg.tune.study import open_study
settings = read_settings(tune_parser().read(sys.argv[1:]))
study = open_study(settings)
with alive(settings.folder) as name:
    while worker.run_trial(study, settings, name, lambda trial, settings: [0.5]) is not None:
        pass
"""


def test_workers_of_a_folder_run_exactly_as_many_trials_as_are_wanted(tmp_path: Path) -> None:
    path = write_small(tmp_path, trainer__default_root_dir=str(tmp_path))
    command = [sys.executable, "-c", COUNTING_WORKER, "-c", path, "--trials", "20"]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert [trial.state for trial in open_study(small(tmp_path)).trials] == [TrialState.COMPLETE] * 20


def test_a_worker_lives_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom lightning_vgg.tune.alive import alive\n"
        f"with alive(Path({str(tmp_path)!r})) as name: print(name, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert is_alive(tmp_path, name) is True
    process.kill()
    process.communicate()
    assert is_alive(tmp_path, name) is False
    with alive(tmp_path) as own:
        assert is_alive(tmp_path, own) is True
    assert is_alive(tmp_path, own) is None


def test_a_journal_that_ends_in_half_a_line_is_mended(tmp_path: Path) -> None:
    settings = small(tmp_path)
    search(settings, 2)
    journal = settings.folder / studies.JOURNAL
    sound = journal.read_bytes()
    journal.write_bytes(sound + sound.splitlines()[-1][:20])
    search(settings, 1)
    assert [trial.state for trial in open_study(settings).trials] == [TrialState.COMPLETE] * 3


@pytest.mark.timeout(30)  # one that is not taken away is waited for without end
def test_a_lock_left_by_a_process_that_was_killed_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (3,))  # seconds, not half a minute
    settings = small(Path())
    open_study(settings)
    acquire = JournalFileSymlinkLock.acquire
    with monkeypatch.context() as killed:
        killed.setattr(JournalFileSymlinkLock, "acquire", lambda lock: acquire(lock) and signal.raise_signal(2))
        with pytest.raises(KeyboardInterrupt):
            open_study(settings)
    lock = settings.folder / f"{studies.JOURNAL}.lock"
    assert lock.is_symlink()
    open_study(settings)
    assert not lock.is_symlink()


def test_a_study_goes_on_whose_keys_have_moved_since(tmp_path: Path) -> None:
    study = open_study(small(tmp_path))
    old = {new: old for old, new in MOVED.items()}
    study.set_user_attr("settings", {old.get(key, key): value for key, value in study.user_attrs["settings"].items()})
    assert "model.whitening" in study.user_attrs["settings"]
    open_study(small(tmp_path))


def test_a_study_does_not_go_on_with_other_settings_but_with_images_elsewhere(tmp_path: Path) -> None:
    search(small(tmp_path), 1)
    with pytest.raises(ExperimentError, match=r"'small' was started with trainer.max_epochs: 4, now it is 3"):
        open_study(small(tmp_path, trainer__max_epochs=3))
    with pytest.raises(ExperimentError, match=r"was started with tune.space: .*; their trials cannot be mixed"):
        open_study(small(tmp_path, tune__space={"model.network.dropout": {"low": 0.1, "high": 0.2}}))
    search(small(tmp_path, data__root="elsewhere", trainer__logger=False), 1)
    assert len(params(small(tmp_path))) == 2


def test_a_database_fails_the_trials_of_a_machine_that_fell_silent(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    settings = small(tmp_path, "--storage", url)
    study = open_study(settings)
    for machine, silent in (("dead", 1000), ("living", 10)):
        trial = begin(study, settings, f"worker of the {machine} machine")
        assert trial is not None
        with sqlite3.connect(tmp_path / "study.db") as database:
            change = (
                "update trial_heartbeats set heartbeat = datetime('now', ?) "
                "where trial_id = (select trial_id from trials where number = ?)"
            )
            assert database.execute(change, (f"-{silent} seconds", trial.number)).rowcount == 1
    fail_dead_trials(study, settings)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING"]
    assert trials_left(study, settings) == 30  # a trial elsewhere does not keep this machine from working


def test_a_proxy_serves_the_study(tmp_path: Path) -> None:
    from optuna.storages._grpc.server import make_server

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    database = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    server = make_server(database, "127.0.0.1", port)
    server.start()
    try:
        search(small(tmp_path, "--storage", f"grpc://127.0.0.1:{port}"), 2)
    finally:
        server.stop(None).wait()
    assert len(params(small(tmp_path, "--storage", f"sqlite:///{tmp_path}/study.db"))) == 2


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all.db", "oracle://host/db", "grpc://127.0.0.1:x"])
def test_a_storage_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="--storage cannot be opened"):
        open_study(small(tmp_path, "--storage", url))


class FakeEngine:
    """Trains nothing: a trial learns its own dropout, and diverges at high rates."""

    def __init__(self, highest_rate: float) -> None:
        self.highest_rate = highest_rate

    def check(self, experiment: ExperimentSpec) -> None:
        pass

    def train(self, experiment: ExperimentSpec, watch: Callable[[int, float], bool]) -> RunFolder:
        if experiment.model.optimizer.learning_rate > self.highest_rate:
            raise Diverged("the loss is lost")
        run = RunFolder.create(experiment.root, experiment.experiment, experiment.name, 0)
        run.update_record(parameters=100, images_per_second=9.0)
        for epoch in range(1, experiment.trainer.max_epochs + 1):
            val_acc = experiment.model.network.dropout * (1 if epoch == 3 else 0.9)
            run.write_history({"epoch": epoch, "step": epoch, "val_acc": val_acc, "seconds": 1.0})
            patient = experiment.model.early_stopping is None or epoch < 2
            if not patient:
                run.update_record(stopped="it gets no better")
            if watch(epoch, val_acc) or not patient:
                break
        return run


def test_the_search_learns_from_settings_at_which_the_loss_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small(tmp_path, "--trials", "25", tune__startup_trials=5)
    monkeypatch.setattr(worker, "find_engine", lambda framework: FakeEngine(0.01))  # of rates up to 0.03
    worker.work(open_study(settings), settings)
    trials = open_study(settings).trials
    lost = [trial for trial in trials if trial.params["model.optimizer.learning_rate"] > 0.01]
    assert [trial for trial in trials if "error" in trial.user_attrs] == lost != []
    assert all(trial.state == TrialState.PRUNED for trial in lost)
    assert len([trial for trial in lost if trial.number >= 15]) <= 2
    assert capsys.readouterr().out.count("  the loss is lost\n") == len(lost)
    with (settings.folder / "trials.csv").open() as file:
        assert [row["number"] for row in csv.DictReader(file) if row["error"]] == [str(trial.number) for trial in lost]
    assert savings(trials, settings)[0] == sum(trial.user_attrs.get("seconds", 0) for trial in trials)


def test_a_trials_value_is_its_best_epoch_and_bad_ones_are_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the median rule, computed here: after epoch 2, below the median of the complete trials' best so far."""
    settings = small(tmp_path, "--trials", "12", tune__startup_trials=3)
    monkeypatch.setattr(worker, "find_engine", lambda framework: FakeEngine(1.0))
    worker.work(open_study(settings), settings)
    complete: list[float] = []
    pruned = 0
    for trial in open_study(settings).trials:
        dropout = trial.params["model.network.dropout"]
        bad = len(complete) >= 3 and 0.9 * dropout < statistics.median([0.9 * each for each in complete])
        assert (trial.state == TrialState.PRUNED) == bad
        assert trial.value == pytest.approx(0.9 * dropout if bad else dropout)
        assert trial.user_attrs["epochs"] == (2 if bad else 4)
        pruned += bad
        complete += [] if bad else [dropout]
    assert pruned > 0


def test_a_trial_that_early_stopping_ends_is_complete_and_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the epoch in which the pruner would have stopped it."""
    settings = small(tmp_path, "--trials", "12", "--model.early_stopping.patience", "1", tune__startup_trials=3)
    monkeypatch.setattr(worker, "find_engine", lambda framework: FakeEngine(1.0))
    worker.work(open_study(settings), settings)
    trials = open_study(settings).trials
    assert all(trial.state == TrialState.COMPLETE and trial.user_attrs["epochs"] == 2 for trial in trials)
    assert savings(trials, settings) == (24.0, 0.0)


def test_a_trials_value_is_the_accuracy_of_the_epoch_that_best_by_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LowestLossFirst(FakeEngine):
        def train(self, experiment: ExperimentSpec, watch: Callable[[int, float], bool]) -> RunFolder:
            run = RunFolder.create(experiment.root, experiment.experiment, experiment.name, 0)
            run.update_record(parameters=100, images_per_second=9.0, best_by=experiment.model.best_by)
            for epoch in (1, 2):
                run.write_history(
                    {"epoch": epoch, "step": epoch, "val_acc": epoch / 4, "val_loss": epoch, "seconds": 1}
                )
            return run

    for by, value in (("val_acc", 0.5), ("val_loss", 0.25)):
        flags = ("--trials", "1", "--model.best_by", by, "--experiment", by)
        settings = small(tmp_path, *flags)
        monkeypatch.setattr(worker, "find_engine", lambda framework: LowestLossFirst(1.0))
        worker.work(open_study(settings), settings)
        assert open_study(settings).trials[0].value == value


# What a study leaves


def test_pruning_saves_the_epochs_not_trained(tmp_path: Path) -> None:
    settings = small(tmp_path)
    trials = [
        create_trial(value=0.5, user_attrs={"epochs": 4, "seconds": 8.0}),
        create_trial(state=TrialState.PRUNED, user_attrs={"epochs": 1, "seconds": 3.0}),
    ]
    assert savings(trials, settings) == (11.0, 9.0)  # three epochs of three seconds


def test_the_results_of_a_study_of_two_objectives(tmp_path: Path) -> None:
    settings = small(tmp_path, tune__objectives=["val_acc", "parameters"])
    search(settings, 3)
    study = open_study(settings)
    write_results(study, settings)
    write_report(study, settings)
    with (settings.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["model.network.dropout"]))
    assert [row["on_front"] for row in rows] == [str(row is best) for row in rows]  # best in both
    config = yaml.safe_load((settings.folder / "best.yaml").read_text())
    assert config["model"]["network"]["dropout"] == float(best["model.network.dropout"])
    assert f"front\n  trial {best['number']:>3}  val_acc" in closing_words(study, settings)
    assert_report_stands_alone(settings.folder / "report.html", "Pareto front", "Slices: parameters")


def assert_report_stands_alone(path: Path, *titles: str) -> None:
    page = path.read_text()
    assert "<script src=" not in page and page.count("Plotly.newPlot") >= 4
    for title in titles:
        assert title in page


# Whole studies


def tune(folder: Path, *args: str) -> str:
    """In this process, which has loaded the frameworks already."""
    return run_here(folder)("tune -c tune.yaml", *args).stdout


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [BIN / "lightning-vgg", "tune", "-c", "tune.yaml", *args]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trials_of(folder: Path, *args: str) -> list[FrozenTrial]:
    command = ["-c", str(folder / "tune.yaml"), *args, "--trainer.default_root_dir", str(folder)]
    return open_study(read_settings(tune_parser().read(command))).trials


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which two processes have run a study of five trials."""
    folder = tmp_path_factory.mktemp("study")
    write_small(folder)
    (folder / "output.txt").write_text(run_in(folder)("tune -c tune.yaml --trials 5 --jobs 2").stdout)
    return folder


@pytest.mark.slow
def test_processes_share_the_trials_and_each_is_a_run_folder(study_folder: Path) -> None:
    trials = trials_of(study_folder)
    assert [trial.state in studies.FINISHED for trial in trials] == [True] * 5
    folder = study_folder / "runs" / "small"
    runs = sorted(path.parent.name for path in folder.glob("*/run.json"))
    assert runs == sorted(trial.user_attrs["run"] for trial in trials) == [f"trial{number:04}" for number in range(5)]
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2
    assert list((folder / "workers").iterdir()) == []
    for trial in trials:
        run = RunFolder(folder / trial.user_attrs["run"])
        history = run.read_history()
        assert "test_acc" not in run.read_record()  # the choice is made without the test images
        if trial.state == TrialState.COMPLETE:
            assert trial.value == max(row["val_acc"] for row in history)
            assert len(history) == 4
        else:
            assert len(history) == trial.user_attrs["epochs"] < 4
        config = yaml.safe_load((run.path / "config.yaml").read_text())
        network = config["model"]["network"]
        assert as_text(network["filters"]) == trial.params["model.network.filters"]
        assert network["dropout"] == trial.params["model.network.dropout"]


@pytest.mark.slow
def test_every_trial_is_a_wandb_run_of_the_studys_group_with_its_parameters(study_folder: Path) -> None:
    first, *_, last = trials_of(study_folder)
    for trial in (first, last):  # the last is not the first of its process
        records = wandb_records(study_folder / "runs" / "small" / trial.user_attrs["run"])
        record = next(record["run"] for record in records if record["type"] == "run")
        assert (record["run_group"], record["display_name"]) == ("small", trial.user_attrs["run"])
        model = record["config"]["update"]["model"]
        assert model["optimizer"]["learning_rate"] == trial.params["model.optimizer.learning_rate"]


@pytest.mark.slow
def test_the_folder_tells_the_study(study_folder: Path) -> None:
    folder = study_folder / "runs" / "small"
    trials = trials_of(study_folder)
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["number"]), row["state"]) for row in rows] == [
        (trial.number, trial.state.name.lower()) for trial in trials
    ]
    assert [float(row["model.network.dropout"]) for row in rows] == [
        trial.params["model.network.dropout"] for trial in trials
    ]
    titles = ("History", "Importances", "Parallel coordinates", "Slices", "Validation accuracy by epoch")
    assert_report_stands_alone(folder / "report.html", *titles)
    output = (study_folder / "output.txt").read_text()
    assert output.count("\ntrial ") + output.startswith("trial ") == 5
    assert f"best     trial {best_trial(open_study(small(study_folder))).number}, val_acc" in output


@pytest.mark.slow
def test_the_best_trains_unchanged_by_fit_and_over_seeds_by_the_command(study_folder: Path, tmp_path: Path) -> None:
    best = best_trial(open_study(small(study_folder)))
    runs = study_folder / "runs" / "small"
    run_here(tmp_path)(f"fit -c {runs}/best.yaml --name again --trainer.logger false")
    again = tmp_path / "runs" / "small" / "again"
    assert history_without_seconds(again) == history_without_seconds(runs / best.user_attrs["run"])
    retrained = [runs / f"best{best.number:04}_seed{seed}" / "run.json" for seed in (0, 5)]
    outputs = []
    for _ in range(2):
        outputs.append(tune(study_folder, "--retrain-best", "0", "5", "--report", "true"))
        times = [path.stat().st_mtime_ns for path in retrained]
    accuracies = [json.loads(path.read_text())["test_acc"] for path in retrained]
    assert [path.stat().st_mtime_ns for path in retrained] == times  # tested once
    assert all((path.parent / "report.html").is_file() for path in retrained)
    for output in outputs:
        assert f"seed 5  test_acc {accuracies[1]:.2%}" in output
        assert f"mean    test_acc {sum(accuracies) / 2:.2%}" in output
    assert json.loads((again / "run.json").read_text())["test_acc"] == accuracies[0]
    assert len(list(runs.glob("best0*"))) == 2


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    write_small(tmp_path, trainer__max_epochs=8, trainer__logger=False)
    process = start(tmp_path, "--trials", "3")
    wait_for(lambda: len(list(tmp_path.glob("runs/small/trial0001/history.csv"))) == 1)
    process.kill()
    process.communicate()
    before = trials_of(tmp_path)
    assert before[0].state in studies.FINISHED and before[1].state == TrialState.RUNNING
    tune(tmp_path, "--trials", "3")
    after = trials_of(tmp_path)
    assert after[0] == before[0]
    assert [trial.state in studies.FINISHED for trial in after] == [True, False, True, True]
    assert after[1].state == TrialState.FAIL
    assert list((tmp_path / "runs" / "small" / "workers").iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_stops_every_process_and_reports(tmp_path: Path) -> None:
    write_small(tmp_path, trainer__max_epochs=300, trainer__logger=False)
    process = start(tmp_path, "--jobs", "2")
    wait_for(lambda: len(list(tmp_path.glob("runs/small/trial000[01]/history.csv"))) == 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "0 of 30 trials finished: 0 complete, 0 pruned; 2 failed; the same command continues" in output
    assert "Traceback" not in output
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.FAIL] * 2
    assert (tmp_path / "runs" / "small" / "report.html").exists()


@pytest.mark.thorough  # make test has several processes of one machine, and what a database does of a silent one
def test_machines_share_a_storage_and_no_trial_is_lost_or_run_twice(tmp_path: Path) -> None:
    """Two machines are two working folders here; both begin at once, with no table in the database."""
    machines = [tmp_path / "one", tmp_path / "two"]
    storage = f"sqlite:///{tmp_path}/study.db"
    for machine in machines:
        machine.mkdir()
        space = {"model.network.dropout": {"low": 0.0, "high": 0.5}, "model.optimizer.learning_rate": [0.003, 1e30]}
        write_small(machine, trainer__logger=False, trainer__max_epochs=2, tune__space=space)
    processes = [start(machine, "--trials", "4", "--storage", storage) for machine in machines]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    trials = trials_of(machines[0], "--storage", storage)
    runs = [path.parent.name for machine in machines for path in machine.glob("runs/small/*/run.json")]
    assert sorted(runs) == [f"trial{trial.number:04}" for trial in trials]
    assert all(trial.state in studies.FINISHED for trial in trials)
    lost = [trial.number for trial in trials if trial.params["model.optimizer.learning_rate"] == "1.0e+30"]
    assert [trial.number for trial in trials if "error" in trial.user_attrs] == lost != []
    assert 4 <= len(trials) <= 5  # both may begin a last one at the same moment
    assert len(list(machines[0].glob("runs/small/trial*"))) > 0 < len(list(machines[1].glob("runs/small/trial*")))


@pytest.mark.slow
def test_keras_can_be_the_engine(tmp_path: Path) -> None:
    space = {"model.network.dropout": {"low": 0.0, "high": 0.1}, "model.optimizer.learning_rate": [1e-5, 0.01, 1e30]}
    write_small(tmp_path, trainer__max_epochs=3, tune__startup_trials=1, tune__space=space, seed_everything=7)
    code = (
        "import sys\nfrom lightning_vgg.cli import run\nstatus = run(sys.argv[1:])\n"
        "print('loaded', *sorted({'torch', 'lightning', 'tensorflow'} & set(sys.modules)))\nsys.exit(status)"
    )
    args = ["tune", "-c", "tune.yaml", "--framework", "keras", "--trials", "8"]
    result = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "loaded tensorflow"
    trials = trials_of(tmp_path, "--framework", "keras")
    assert [trial.state in studies.FINISHED for trial in trials] == [True] * 8
    rates = [float(trial.params["model.optimizer.learning_rate"]) for trial in trials]
    assert ["error" in trial.user_attrs for trial in trials] == [rate == 1e30 for rate in rates]
    assert set(rates) == {1e-5, 0.01, 1e30}  # by this seed
    assert any(trial.user_attrs.get("epochs") == 2 for trial in trials)
    for trial in (trial for trial in trials if "run" in trial.user_attrs):
        run = RunFolder(tmp_path / "runs" / "small" / trial.user_attrs["run"])
        record = run.read_record()
        assert record["framework"] == "keras" and "test_acc" not in record
        assert len(run.read_history()) == trial.user_attrs["epochs"]


def test_a_wandb_sweep_starts_the_same_command(tmp_path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((CONFIGS / "tune" / "wandb_sweep.yaml").read_text())
    values = {
        name: parameter["values"][0] if "values" in parameter else parameter["min"]
        for name, parameter in sweep["parameters"].items()
    }
    values["data.augmentation.flip"] = True
    flags = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})["args"]
    assert "--data.augmentation.flip=True" in flags
    program, command, *words = create_sweep_command(sweep["command"])
    assert program == "lightning-vgg"
    words = [word.replace("=configs/", f"={CONFIGS}/") for word in words if word != "${args}"]
    short = ["--data.source=digits", "--data.train_images=100", "--trainer.max_epochs=1", "--trainer.logger=false"]
    run_here(tmp_path)(command, *words, *flags, *short)
    (path,) = tmp_path.glob("runs/sweep-vgg/*/config.yaml")
    config = yaml.safe_load(path.read_text())
    assert config["data"]["augmentation"]["flip"] is True
    assert config["model"]["network"]["filters"] == yaml.safe_load(values["model.network.filters"])
    assert config["model"]["optimizer"]["learning_rate"] == values["model.optimizer.learning_rate"]
