"""What a study leaves in its folder: trials.csv, best.yaml, report.html, and what it says at the end."""

from __future__ import annotations

import csv
import html
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_vgg.experiment.settings import config_text
from lightning_vgg.runs.folder import atomic_write
from lightning_vgg.tune.spec import DIRECTIONS, Objective, StudySettings
from lightning_vgg.tune.study import best_trial, finished_trials

MEASURED = ("val_acc", "images_per_second", "parameters", "epochs", "seconds", "run", "error")
"""Of each finished trial. val_acc: a fraction, of the best epoch. seconds: of all epochs, validation included. Of a
trial whose loss was lost there is the error alone."""


def write_results(study: optuna.Study, settings: StudySettings) -> None:
    """trials.csv with a row for every trial that ended, and best.yaml once a trial is complete."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    front = {trial.number for trial in study.best_trials} if len(settings.tune.objectives) > 1 else set()
    text = io.StringIO()
    columns = ["number", "state", *MEASURED, *(["on_front"] if front else []), *settings.space]
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        row = {"number": trial.number, "state": trial.state.name.lower(), "on_front": trial.number in front}
        writer.writerow({**row, **trial.user_attrs, **trial.params})
    with atomic_write(settings.folder / "trials.csv") as file:
        file.write(text.getvalue().encode())
    if any(trial.state == TrialState.COMPLETE for trial in trials):
        with atomic_write(settings.folder / "best.yaml") as file:
            file.write(best_config(best_trial(study), settings).encode())


def best_config(trial: FrozenTrial, settings: StudySettings) -> str:
    """The text of best.yaml."""
    config = config_text(settings.experiment_of(trial.params))
    return f"# Trial {trial.number} of the study {settings.name}: val_acc {trial.values[0]:.4f}.\n{config}"


def write_report(study: optuna.Study, settings: StudySettings) -> None:
    """report.html: Optuna's pictures and what draws them, in one file that needs no network."""
    parts: list[str] = []
    for title, figure in _figures(study, settings):
        figure.update_layout(title=title)
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    page = (
        f'<!doctype html>\n<meta charset="utf-8">\n<title>{html.escape(settings.name)}</title>\n'
        f"<h1>{html.escape(settings.name)}</h1>\n<pre>{html.escape(closing_words(study, settings))}</pre>\n"
    )
    with atomic_write(settings.folder / "report.html") as file:
        file.write((page + "\n".join(parts)).encode())


def _figures(study: optuna.Study, settings: StudySettings) -> Iterator[tuple[str, Any]]:
    from optuna import visualization

    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete:
        return
    objectives = settings.tune.objectives
    if len(objectives) > 1:
        yield "Pareto front", visualization.plot_pareto_front(study, target_names=list(objectives))
    for index, objective in enumerate(objectives):
        value = _value(index)
        yield (
            f"History: {objective}",
            visualization.plot_optimization_history(study, target=value, target_name=objective),
        )
        if len({trial.values[index] for trial in complete}) > 1:  # where all are equal, nothing is important
            yield f"Importances: {objective}", _importances(study, index, objective)
        coordinates = visualization.plot_parallel_coordinate(study, target=value, target_name=objective)
        yield f"Parallel coordinates: {objective}", coordinates
        yield f"Slices: {objective}", visualization.plot_slice(study, target=value, target_name=objective)
    if settings.pruning:
        yield "Validation accuracy by epoch", visualization.plot_intermediate_values(study)


def _importances(study: optuna.Study, index: int, objective: Objective) -> Any:
    from optuna import visualization

    sign = (
        -1 if DIRECTIONS[objective] == "maximize" else 1
    )  # Optuna takes low values for the good ones, and warns of it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PedAnova")
        return visualization.plot_param_importances(study, target=_value(index, sign), target_name=objective)


def _value(index: int, sign: int = 1) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * trial.values[index]


def closing_words(study: optuna.Study, settings: StudySettings) -> str:
    """How many trials, the best of them, the front, and what pruning saved."""
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    done = len(finished_trials(study))
    lines = [
        f"{done} of {settings.trials} trials finished: {counts[TrialState.COMPLETE]} complete, "
        f"{counts[TrialState.PRUNED]} pruned; {counts[TrialState.FAIL]} failed"
    ]
    if done < settings.trials:
        lines[0] += "; the same command continues"
    spent, saved = savings(finished_trials(study), settings)
    if saved:
        share = saved / (spent + saved)
        lines.append(
            f"pruning  {spent:.0f} s spent, {saved:.0f} s saved, {share:.0%} of what all epochs would have taken"
        )
    if counts[TrialState.COMPLETE]:
        best = best_trial(study)
        values = "".join(f"\n  {key}: {value}" for key, value in best.params.items())
        lines.append(f"best     trial {best.number}, val_acc {best.values[0]:.2%}{values}")
        if len(settings.tune.objectives) > 1:
            lines += ["front", *(f"  {_front_line(trial, settings)}" for trial in study.best_trials)]
        lines.append(f"train it lightning-vgg fit -c {settings.folder / 'best.yaml'}")
    return "\n".join(lines)


def _front_line(trial: FrozenTrial, settings: StudySettings) -> str:
    _, *others = zip(settings.tune.objectives, trial.values, strict=True)
    return "  ".join(
        [
            f"trial {trial.number:3}",
            f"val_acc {trial.values[0]:.2%}",
            *(f"{name} {value:,.0f}" for name, value in others),
        ]
    )


def savings(trials: list[FrozenTrial], settings: StudySettings) -> tuple[float, float]:
    """Seconds that finished trials took, and those that pruning saved: of each epoch that a pruned trial did not train,
    the mean of its epochs. Trials whose loss was lost are left out."""
    spent = saved = 0.0
    for trial in trials:
        if "error" in trial.user_attrs:
            continue
        spent += trial.user_attrs["seconds"]
        if trial.state == TrialState.PRUNED:  # others may have been stopped by the experiment's own early_stopping
            missing = settings.experiment_of(trial.params).trainer.max_epochs - trial.user_attrs["epochs"]
            saved += missing * trial.user_attrs["seconds"] / trial.user_attrs["epochs"]
    return spent, saved
