"""A study: search the best settings, or train the best found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.experiment.parsing import ExplainingParser
from lightning_vgg.images.dataset import load_dataset
from lightning_vgg.runs.machine import share_of_machine
from lightning_vgg.tune.spec import StudySettings, read_settings

if TYPE_CHECKING:
    import optuna


def tune(parser: ExplainingParser, args: list[str]) -> optuna.Study:
    """Carry out a command line; returns the study."""
    config = parser.read(args)
    for package in ("optuna", "plotly"):
        require(package, "tune")
    if config.framework == "keras":
        require("keras", "keras")
    settings = read_settings(config)
    load_dataset(settings.experiment.data)  # missing images should stop the study, not one trial after the other
    from lightning_vgg.tune.study import open_study

    study = open_study(settings)
    if config.retrain_best is not None:
        retrain_best(study, settings, config.retrain_best)
    else:
        search(study, settings)
    return study


def search(study: optuna.Study, settings: StudySettings) -> None:
    """Run the trials that are missing, and report, also where Ctrl-C ends it."""
    from lightning_vgg.tune.summary import closing_words, write_report, write_results

    try:
        if settings.jobs == 1:
            from lightning_vgg.tune.worker import work

            work(study, settings)
        else:
            _run_workers(settings)
    finally:
        write_results(study, settings)
        write_report(study, settings)
        print(f"{closing_words(study, settings)}\nreport   {settings.folder / 'report.html'}")


def _run_workers(settings: StudySettings) -> None:
    """As many processes as jobs, each with its share of the cores."""
    from lightning_vgg.tune.worker import work_as_process

    for variable, value in share_of_machine(settings.jobs).items():
        os.environ.setdefault(variable, value)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work_as_process, args=(settings,)) for _ in range(settings.jobs)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException:  # Ctrl-C
        for worker in workers:
            if worker.is_alive() and worker.pid is not None:
                os.kill(worker.pid, signal.SIGINT)
        for worker in workers:
            worker.join()
        raise
    broken = [worker.exitcode for worker in workers if worker.exitcode]
    if broken:
        raise ExperimentError(f"{len(broken)} of {settings.jobs} workers failed (exit status {broken}); see above")


def retrain_best(study: optuna.Study, settings: StudySettings, seeds: list[int]) -> None:
    """Train the best trial's settings with each seed, test each once, and print the accuracies."""
    from lightning_vgg.tune.study import best_trial
    from lightning_vgg.tune.worker import train_once

    best = best_trial(study)
    print(f"trial {best.number} of {settings.name}, val_acc {best.values[0]:.2%} in the search", flush=True)
    accuracies = []
    for seed in seeds:
        experiment = settings.experiment_of(best.params, name=f"best{best.number:04}_seed{seed}")
        run = train_once(replace(experiment, seed_everything=seed), settings)
        accuracies.append(run.read_record()["test_acc"])
    for seed, accuracy in zip(seeds, accuracies, strict=True):
        print(f"seed {seed}  test_acc {accuracy:.2%}")
    if len(seeds) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"mean    test_acc {mean:.2%}, standard deviation {deviation:.2%}")
