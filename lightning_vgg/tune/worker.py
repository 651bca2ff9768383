"""A worker: takes one trial after the other until the study is done."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_vgg.common.errors import Diverged, ExperimentError
from lightning_vgg.common.interruption import SIGNALS, Interrupted
from lightning_vgg.common.locks import file_lock
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.report import report_run
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.tune.alive import alive
from lightning_vgg.tune.engines import find_engine
from lightning_vgg.tune.space import as_text
from lightning_vgg.tune.spec import StudySettings
from lightning_vgg.tune.study import fail_dead_trials, next_draw, open_study, sampler, trials_left
from lightning_vgg.tune.summary import write_results


def work_as_process(settings: StudySettings) -> None:
    """The whole life of one of several workers."""
    if hasattr(os, "setsid"):  # else it is Windows
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
            number = run_trial(study, settings, worker, _train_trial)
            if number is None:
                return
            write_results(study, settings)
            print(trial_line(study.trials[number], settings), flush=True)


def _orphaned() -> bool:
    """Whether the command that started this worker was killed."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def run_trial(
    study: optuna.Study,
    settings: StudySettings,
    worker: str,
    objective: Callable[[optuna.Trial, StudySettings], list[float]],
) -> int | None:
    """Take a trial and run it; returns its number, None where no more are to be begun.

    One worker of this folder at a time counts and takes a trial, so no two take the last one.
    """
    number = None
    with file_lock(settings.folder / ".turn") as turn:
        fail_dead_trials(study, settings)
        if trials_left(study, settings) <= 0:
            return None
        draw = next_draw(study)
        study.sampler = sampler(settings, draw)

        def taken(trial: optuna.Trial) -> list[float]:
            nonlocal number
            number = trial.number
            trial.set_user_attr("draw", draw)
            trial.set_user_attr("worker", worker)
            turn.release()  # the trial is there to be counted
            return objective(trial, settings)

        try:
            study.optimize(taken, n_trials=1)
        except BaseException:  # a signal's, too, which Optuna lets pass
            if number is not None:
                study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            raise
    return number


def _train_trial(trial: optuna.Trial, settings: StudySettings) -> list[float]:
    """Train with the trial's settings; returns the values of the objectives.

    Raises:
        optuna.TrialPruned: the pruner stopped it, or its loss is not finite. From a failed trial the search would learn
            nothing.
    """
    for key, parameter in settings.space.items():
        parameter.suggest(trial, key)
    experiment = settings.experiment_of(trial.params, name=f"trial{trial.number:04}")
    watch = _Reporter(trial, settings.pruning, experiment.trainer.max_epochs)
    try:
        run = find_engine(settings.framework).train(experiment, watch)
    except Diverged as error:
        trial.set_user_attr("error", str(error))
        raise optuna.TrialPruned from error
    history, record, best = run.read_history(), run.read_record(), run.best_epoch()["val_acc"]
    trial.set_user_attr("run", run.path.name)
    trial.set_user_attr("val_acc", best)
    trial.set_user_attr("epochs", len(history))
    trial.set_user_attr("seconds", round(sum(row["seconds"] for row in history), 3))
    for name in ("parameters", "images_per_second"):
        trial.set_user_attr(name, record[name])
    if watch.pruned and "stopped" not in record:  # by early_stopping in the same epoch: it was complete
        raise optuna.TrialPruned
    measured = {**record, "val_acc": best}
    return [measured[objective] for objective in settings.tune.objectives]


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
    run = find_engine(settings.framework).train(experiment, None)
    if experiment.report:
        print(f"report   {report_run(run)}")
    return run


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


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_text(value)
