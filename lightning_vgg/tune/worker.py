"""A worker: takes one trial after the other until the study is done."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from typing import Any

import optuna
from optuna.storages._heartbeat import get_heartbeat_thread  # Study.optimize has it, but takes trials without a turn
from optuna.trial import FrozenTrial, TrialState

from lightning_vgg.common.errors import Diverged, ExperimentError
from lightning_vgg.common.interruption import SIGNALS, Interrupted
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.tune.alive import alive, locked
from lightning_vgg.tune.engines import find_engine
from lightning_vgg.tune.space import as_text
from lightning_vgg.tune.spec import StudySettings
from lightning_vgg.tune.study import fail_dead_trials, next_draw, open_study, sampler, trials_left
from lightning_vgg.tune.summary import write_results


def work_as_process(settings: StudySettings) -> None:
    """The whole life of one of several workers."""
    os.setsid()  # Ctrl-C reaches the parent alone, which hands it on once
    try:
        SIGNALS.install()
        work(open_study(settings), settings)
    except Interrupted as stop:
        raise SystemExit(stop.status) from None
    except ExperimentError as error:
        print(f"lightning-vgg: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def work(study: optuna.Study, settings: StudySettings) -> None:
    """Run trials until the study has as many as it should, over all workers."""
    with alive(settings.folder) as worker:
        while not _orphaned():
            trial = take_trial(study, settings, worker)
            if trial is None:
                return
            with get_heartbeat_thread(trial._trial_id, study._storage):
                try:
                    _run_trial(study, trial, settings)
                except Diverged as error:
                    trial.set_user_attr("error", str(error))
                    study.tell(trial, state=TrialState.PRUNED)  # the search learns nothing from a failed one
                except BaseException:  # Ctrl-C, too
                    study.tell(trial, state=TrialState.FAIL)
                    raise
            write_results(study, settings)
            print(trial_line(study.trials[trial.number], settings), flush=True)


def _orphaned() -> bool:
    """Whether the command that started this worker was killed."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def take_trial(study: optuna.Study, settings: StudySettings, worker: str) -> optuna.Trial | None:
    """One worker of this folder at a time counts and takes a trial, so no two take the last one."""
    with locked(settings.folder / ".turn"):
        fail_dead_trials(study, settings)
        if trials_left(study, settings) <= 0:
            return None
        draw = next_draw(study)
        study.sampler = sampler(settings, draw)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Heartbeat of storage")  # work() sees to it
            trial = study.ask()
        trial.set_user_attr("draw", draw)
        trial.set_user_attr("worker", worker)
        return trial


def _run_trial(study: optuna.Study, trial: optuna.Trial, settings: StudySettings) -> None:
    for key, parameter in settings.space.items():
        parameter.suggest(trial, key)
    experiment = settings.experiment_of(trial.params, name=f"trial{trial.number:04}")
    watch = _Reporter(trial, settings.pruning, experiment.trainer.max_epochs)
    run = find_engine(settings.framework).train(experiment, watch)
    history, record = run.read_history(), run.read_record()
    best = max(row["val_acc"] for row in history)
    trial.set_user_attr("run", run.path.name)
    trial.set_user_attr("val_acc", best)
    trial.set_user_attr("epochs", len(history))
    trial.set_user_attr("seconds", round(sum(row["seconds"] for row in history), 3))
    for name in ("parameters", "images_per_second"):
        trial.set_user_attr(name, record[name])
    if watch.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        measured = {**record, "val_acc": best}
        study.tell(trial, [measured[objective] for objective in settings.tune.objectives])


class _Reporter:
    """Hands each epoch's validation accuracy to the pruner."""

    def __init__(self, trial: optuna.Trial, pruning: bool, epochs: int) -> None:
        self.trial = trial
        self.pruning = pruning
        self.epochs = epochs
        self.pruned = False

    def __call__(self, epoch: int, val_acc: float) -> bool:
        if self.pruning:
            self.trial.report(val_acc, epoch)
            self.pruned = epoch < self.epochs and self.trial.should_prune()
        return self.pruned


def train_once(experiment: ExperimentSpec, settings: StudySettings) -> RunFolder:
    """Train and test an experiment, unless a run of its name has been tested already."""
    name = experiment.name
    for path in (*settings.folder.glob(f"{name}"), *settings.folder.glob(f"{name}-*")):  # a number where one broke off
        if "test_acc" in RunFolder(path).read_record():
            return RunFolder(path)
    return find_engine(settings.framework).train(experiment, None)


def trial_line(trial: FrozenTrial, settings: StudySettings) -> str:
    """``trial 12  val_acc 71.20 %  3 epochs  14.2 s  pruned  model.network.dropout 0.25 ...``."""
    attributes = trial.user_attrs
    if "error" in attributes:
        return f"trial {trial.number:3}  {attributes['error']}"
    words = [f"trial {trial.number:3}  val_acc {attributes['val_acc']:.2%}"]
    words += [f"{name} {attributes[name]:,.0f}" for name in settings.tune.objectives[1:]]
    words += [f"{attributes['epochs']} epochs", f"{attributes['seconds']:.1f} s"]
    words += ["pruned"] if trial.state == TrialState.PRUNED else []
    values = (f"{key.rpartition('.')[2]} {_short(value)}" for key, value in trial.params.items())
    return "  ".join([*words, ", ".join(values)])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_text(value)
