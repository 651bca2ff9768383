"""The study in its storage: opened, continued, and freed of trials whose process is gone."""

from __future__ import annotations

import itertools
import json
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.specs import MOVED
from lightning_vgg.tune.alive import is_alive
from lightning_vgg.tune.space import as_text
from lightning_vgg.tune.spec import DIRECTIONS, StudySettings

JOURNAL = "journal.log"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
HEARTBEAT_SECONDS = 30
"""A database's trial is stale after twice as long without a sign of life."""


def open_study(settings: StudySettings) -> optuna.Study:
    """The study of the settings, new or continued.

    Raises:
        ExperimentError: the storage cannot be opened, or holds a study of this name with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are reported by our own lines
    settings.folder.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=settings.tune.startup_trials, n_warmup_steps=settings.tune.warmup_epochs + 1
    )
    study = optuna.create_study(
        storage=_open_storage(settings),
        study_name=settings.name,
        directions=[DIRECTIONS[objective] for objective in settings.tune.objectives],
        pruner=pruner if settings.pruning else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    _same_settings(study, settings)
    return study


def _open_storage(settings: StudySettings) -> BaseStorage:
    if settings.storage is None:
        # Absolute: Optuna's lock is a link to the path as it is given. One left by a process that was killed counts as
        # stale by the time of what it points to, and is waited for without end where it points nowhere.
        path = settings.folder.absolute() / JOURNAL
        _mend_journal(path)
        return JournalStorage(JournalFileBackend(str(path)))
    scheme, _, address = settings.storage.partition("://")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if scheme == "grpc":
                host, _, port = address.rpartition(":")
                proxy = GrpcStorageProxy(host=host, port=int(port))
                proxy.wait_server_ready(timeout=10)
                return proxy
            return _open_database(settings.storage)
    except Exception as error:  # of SQLAlchemy, its drivers, or gRPC: whatever it is, the URL leads nowhere
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ExperimentError(  # without the URL, which may hold a password
            f"--storage cannot be opened ({reason}); it is the URL of a database, such as sqlite:///study.db, "
            "or grpc://HOST:PORT"
        ) from None


def _open_database(url: str) -> RDBStorage:
    """Workers that open a new database at the same moment all make its tables; the slower ones fail, and try again."""
    from sqlalchemy.exc import DBAPIError  # half a second

    try:
        return RDBStorage(url, heartbeat_interval=HEARTBEAT_SECONDS)
    except DBAPIError:
        time.sleep(1)
        return RDBStorage(url, heartbeat_interval=HEARTBEAT_SECONDS)


def _mend_journal(path: Path) -> None:
    """Remove the half-written line of a process that was killed: Optuna would never read beyond it."""
    if not path.exists():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with path.open("rb+") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
    finally:
        lock.release()


def _same_settings(study: optuna.Study, settings: StudySettings) -> None:
    now = json.loads(json.dumps(settings.fixed()))
    begun = study.user_attrs.get("settings")
    if begun is None:
        study.set_user_attr("settings", now)
        return
    begun = {MOVED.get(key, key): value for key, value in begun.items()}
    for key in begun | now:
        if begun.get(key) != now.get(key):
            raise ExperimentError(
                f"the study {settings.name!r} was started with {key}: {as_text(begun.get(key))}, now it is "
                f"{as_text(now.get(key))}; their trials cannot be mixed: start another study, by another 'experiment'"
            )


def next_draw(study: optuna.Study) -> int:
    """The first number that no finished or running trial was drawn with.

    That of a trial that was killed is free again, so an interrupted search draws what an undisturbed one does. Call it
    only while holding the turn.
    """
    drawn = {
        trial.user_attrs.get("draw", trial.number)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    }
    return next(number for number in itertools.count() if number not in drawn)


def sampler(settings: StudySettings, draw: int) -> optuna.samplers.BaseSampler:
    """TPE for one trial, seeded by the number of its draw.

    A sampler seeded once would draw the same first trials in every worker, and again after a restart.
    """
    seed = np.random.SeedSequence([settings.experiment.seed_everything, draw]).generate_state(1)[0]
    return optuna.samplers.TPESampler(seed=int(seed), n_startup_trials=settings.tune.startup_trials)


def fail_dead_trials(study: optuna.Study, settings: StudySettings) -> None:
    """Mark as failed the trials that no process works on any more. Call it only while holding the turn."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        worker: str | None = trial.user_attrs.get("worker")
        living = is_alive(settings.folder, worker) if worker else None
        if living is None:  # a journal's workers are all of its folder; others may be of another machine
            living = settings.storage is not None
        if not living:
            study.tell(trial.number, state=TrialState.FAIL)
            if worker:
                (settings.folder / "workers" / worker).unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def trials_left(study: optuna.Study, settings: StudySettings) -> int:
    """How many are still to be started; those that this folder's workers are running count as finished."""
    trials = study.get_trials(deepcopy=False)
    return settings.trials - sum(trial.state in FINISHED or _runs_here(trial, settings) for trial in trials)


def _runs_here(trial: FrozenTrial, settings: StudySettings) -> bool:
    worker = trial.user_attrs.get("worker", "")
    return trial.state == TrialState.RUNNING and worker != "" and is_alive(settings.folder, worker) is True


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=FINISHED)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial with the highest validation accuracy.

    Raises:
        ExperimentError: none is complete.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete:
        raise ExperimentError(f"the study {study.study_name!r} has no complete trial yet; run some first")
    return max(complete, key=lambda trial: trial.values[0])
