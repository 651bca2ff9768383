"""Twins: one training by both command lines, in float64 and from the same weights. Do they end as the same one?

In float64 two right implementations differ by the order of additions alone, about 1e-16 a number; all chance is shared.
So the answer needs no seeds and no statistics: the same predictions for every test image, or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.compare.arms import CompareSpec
from lightning_vgg.compare.display import Display
from lightning_vgg.compare.jobs import PROGRAMS, Job, alone, interruptible, program, run_jobs
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.keras_support import refuse_unimplemented
from lightning_vgg.experiment.parsing import ExplainingParser, config_files, experiment_spec, framework_free_parser
from lightning_vgg.experiment.settings import config_text, dotted
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.images.dataset import load_dataset
from lightning_vgg.runs import weight_trace
from lightning_vgg.runs.folder import RunFolder, atomic_write
from lightning_vgg.runs.machine import share_of_machine
from lightning_vgg.runs.weight_trace import read_trace
from lightning_vgg.weights.neutral import require_weights, write_neutral

PARTED = 1e-8
"""Distance of the weights at which twins have parted: far above what rounding adds up to in thousands of steps (1e-11
to 1e-9), and far below what one input of a ReLU that changes its sign moves, or one wrong default (1e-6)."""
ROUNDED = 1e-11
"""Distance that rounding alone leaves in one step."""
GROWTH = 30.0
"""By what factor the distance may grow in one step where it is rounding that grows: chaotic trainings double it in some
steps, the sign of a ReLU's input that turns round multiplies it by thousands."""
LOSSES = ("train_loss", "val_loss")
_FRESH = "initial.safetensors"
"""The weights from which both start, where the experiment names no other file."""
POINTS = 200
"""Of the curve of distances, evenly spread on a logarithmic axis."""


@dataclass(frozen=True)
class Twin:
    """A training that both frameworks do.

    Attributes:
        experiment: as :func:`plan_twin` sets it.
        folder: with the settings, the initial weights, the logs and the answer.
        runs: framework -> its run folder.
    """

    experiment: ExperimentSpec
    folder: Path
    runs: dict[str, RunFolder]

    @property
    def answer(self) -> Path:
        return self.folder / "twin.json"

    def jobs(self, environment: Mapping[str, str]) -> Iterator[tuple[Job, RunFolder]]:
        """The two trainings, which go on from their checkpoints where there are any."""
        for framework, run in self.runs.items():
            command = [program(framework), "fit"]
            if (run.path / "config.yaml").exists():
                command += ["-c", str(run.path / "config.yaml"), "--ckpt_path", "last"]
            else:
                command += ["-c", str(self.folder / "experiment.yaml"), "--name", run.path.name]
            if framework == "lightning":
                command += ["--trainer.accelerator", "cpu"]
            else:  # Keras follows its own defaults, whatever Lightning is set to
                command += ["--model.semantics", "keras", "--model.semantics_except", "[]"]
            job = Job(
                name=f"twin in {framework}",
                command=command,
                log=self.folder / "logs" / f"{framework}.log",
                made=lambda run=run: "test_acc" in run.read_record(),  # type: ignore[misc]
                environment={
                    **environment,
                    "KERAS_BACKEND": "tensorflow",  # the others compute parts of float64 in float32
                    "CUDA_VISIBLE_DEVICES": "-1",
                    weight_trace.VARIABLE: "1",
                },
            )
            yield job, run

    def conclude(self) -> None:
        """Write the answer, if both have ended."""
        if all("test_acc" in run.read_record() for run in self.runs.values()):
            with atomic_write(self.answer) as file:
                file.write(json.dumps(compare_twins(self.experiment, self.runs), indent=1).encode() + b"\n")


def twin_parser(program: str = "lightning-vgg twin") -> ExplainingParser:
    parser = framework_free_parser(
        program,
        "Train an experiment by both command lines, Lightning's and Keras's, in float64 and from the same weights, and "
        "say whether they end in the same prediction for every test image. Exit status 1 if not. The same command "
        "continues where it was stopped.",
    )
    parser.epilog = (
        "It trains on the CPU, also where there is a GPU: a GPU adds up in an order that may change from run to run. "
        "The twin goes to runs/<experiment>/twin-<name>; by default the name is that of the last YAML file."
    )
    return parser


def read_twin(parser: ExplainingParser, args: list[str]) -> Twin:
    """The twin of a command line.

    Raises:
        ExperimentError: a setting is wrong, or Keras does not implement it; TensorFlow is not installed.
    """
    experiment, files = experiment_spec(parser.read(args)), config_files(args)
    name = f"twin-{experiment.name or (files[-1].stem if files else 'defaults')}"
    twin = plan_twin(experiment, experiment.root / "runs" / experiment.experiment / name)
    require("tensorflow", "keras")
    return twin


def plan_twin(experiment: ExperimentSpec, folder: Path, name: str | None = None) -> Twin:
    """The twin of an experiment.

    Args:
        experiment: what is trained.
        folder: for all but the two run folders.
        name: with which those begin; None for the folder's.

    Raises:
        ExperimentError: Keras does not implement one of its settings, which is named; its initial weights are missing.
    """
    model = replace(experiment.model, semantics="keras", semantics_except=[])
    refuse_unimplemented(replace(experiment, model=model))
    trainer = replace(experiment.trainer, precision="64-true", logger=False, enable_progress_bar=False)
    require_weights(experiment.model.init_from)
    weights = experiment.model.init_from or str(folder / _FRESH)
    parent = experiment.root / "runs" / experiment.experiment
    runs = {framework: RunFolder(parent / f"{name or folder.name}_{framework}") for framework in PROGRAMS}
    started = replace(experiment, name=None, trainer=trainer, model=replace(experiment.model, init_from=weights))
    return Twin(started, folder, runs)


def prepare(twin: Twin, classes: int) -> None:
    """Write what the trainings read.

    Raises:
        ExperimentError: the folder holds a twin with other settings, or the network cannot be built.
    """
    config, text = twin.folder / "experiment.yaml", config_text(twin.experiment)
    if config.exists():
        before, now = (dotted(yaml.safe_load(each)) for each in (config.read_text(), text))
        changed = [key for key in before | now if before.get(key) != now.get(key) and key != "report"]
        if changed:
            raise ExperimentError(
                f"{twin.folder} is the twin of another experiment ({', '.join(changed)} changed): give this one "
                "another --name"
            )
    weights = twin.folder / _FRESH
    if twin.experiment.model.init_from == str(weights) and not weights.exists():
        from lightning_vgg.training.export import fresh_tensors  # loads torch, which takes seconds

        write_neutral(weights, fresh_tensors(twin.experiment, classes))
    with atomic_write(config) as file:
        file.write(text.encode())


def train_twin(twin: Twin) -> PlainDict:
    """Train whatever is not trained yet, side by side, and return the answer, as in twin.json.

    Raises:
        ExperimentError: images cannot be loaded, the network cannot be built, another process works on this twin, its
            folder holds another one, or a training failed.
        KeyboardInterrupt: with the signal's number.
    """
    classes = len(load_dataset(twin.experiment.data).class_names)
    with interruptible(), alone(twin.folder) as held:
        prepare(twin, classes)
        jobs = list(twin.jobs(share_of_machine(2)))
        todo = [job for job, _ in jobs if not job.made()]
        runs = {job.name: (run, twin.experiment.trainer.max_epochs) for job, run in jobs}
        with Display(len(jobs), len(jobs) - len(todo), runs) as display:
            run_jobs(todo, 2, display, held)
        twin.conclude()
    if not twin.answer.exists():
        raise ExperimentError(
            f"one of the twins failed, as {twin.folder / 'logs'} says; the same command continues them"
        )
    return json.loads(twin.answer.read_text())


def report_twin(twin: Twin) -> Path:
    """Write report.html of a twin that has ended, and return its path."""
    from lightning_vgg.report import write_report
    from lightning_vgg.report.comparison import Comparison

    arms = {framework: {twin.experiment.seed_everything: run} for framework, run in twin.runs.items()}
    name, margin = twin.experiment.experiment, CompareSpec().margin
    comparison = Comparison(name, margin, "keras", arms, [], parity=None, ablation=None, twin=twin.answer)
    return write_report(comparison, twin.folder)


def compare_twins(experiment: ExperimentSpec, runs: Mapping[str, RunFolder]) -> PlainDict:
    """What is written to twin.json.

    ``identical``: all predictions are the same, and the weights have not parted. ``images`` of the test, and how many
    of them have the ``same_predictions``; ``epochs`` of Lightning and ``keras_epochs``, which differ where early
    stopping ended only one of them; the ``steps`` of both; the largest relative difference of each of the
    ``losses`` after an epoch; the largest distance of the last ``weights``, of which ``tensor``; ``distances`` of the
    samples after some of the steps; and where that went above PARTED for the first time, or null: with the distances of
    the ``first`` step and of the one ``before``, and whether it has grown from rounding alone, step by step. A distance
    is max|difference| / max|value| of a tensor, that of the worst one.
    """
    ours, theirs = runs["lightning"], runs["keras"]
    (_, logits), (_, other_logits) = ours.read_predictions(), theirs.read_predictions()
    same = int((logits.argmax(1) == other_logits.argmax(1)).sum())
    epochs, keras_epochs = len(ours.read_history()), len(theirs.read_history())
    histories = list(zip(ours.read_history(), theirs.read_history(), strict=False))
    trace, other = read_trace(ours), read_trace(theirs)
    idle = set() if experiment.model.backbone else plan_model(experiment, num_classes=2).idle_biases()
    last = {name: distance(trace.last[name], other.last[name]) for name in trace.last if name not in idle}
    names = [name for name in trace.samples if name not in idle]
    apart = np.array([_distances(trace.samples[name], other.samples[name]) for name in names])  # (tensors, steps)
    worst = apart.max(0)
    parted = None
    if (worst > PARTED).any():
        step = int(np.argmax(worst > PARTED))
        tensor = int(apart[:, step].argmax())
        parted = {
            "step": step + 1,
            "tensor": names[tensor],
            "distance": float(worst[step]),
            "first": float(worst[0]),
            "before": float(worst[max(step - 1, 0)]),
            "by_rounding": _is_rounding(worst[: step + 1]),
        }
    shown = np.unique(np.geomspace(1, len(worst), POINTS).round().astype(int))
    return {
        "identical": same == len(logits) and parted is None and epochs == keras_epochs,
        "images": len(logits),
        "same_predictions": same,
        "epochs": epochs,
        "keras_epochs": keras_epochs,
        "steps": len(worst),
        "losses": {
            name: max(abs(row[name] - twin[name]) / abs(row[name]) for row, twin in histories)
            for name in LOSSES
            if name in histories[0][0]
        },
        "weights": {"distance": max(last.values()), "tensor": max(last, key=last.__getitem__)},
        "parted": parted,
        "distances": [[int(step), float(worst[step - 1])] for step in shown],
    }


def _is_rounding(distances: np.ndarray) -> bool:
    """Whether the distances after each step, until twins have parted, are rounding that the training amplifies."""
    grown = distances[1:] / np.maximum(distances[:-1], ROUNDED)
    return bool(distances[0] <= ROUNDED and (grown <= GROWTH).all())


def distance(tensor: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(tensor - other).max() / (np.abs(tensor).max() or 1.0))


def _distances(samples: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of (steps, sample), for each step that both have."""
    steps = min(len(samples), len(others))
    samples, others = samples[:steps], others[:steps]
    largest = np.abs(samples).max(1)
    return np.abs(samples - others).max(1) / np.where(largest == 0, 1.0, largest)
