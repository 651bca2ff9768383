"""A comparison: arms times seeds, each run a process, and the report at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.compare.cluster import run_on_cluster
from lightning_vgg.compare.display import Display
from lightning_vgg.compare.initial_weights import initial_weights
from lightning_vgg.compare.jobs import Job, alone, interruptible, program, run_jobs
from lightning_vgg.compare.plan import (
    Arm,
    ComparisonPlan,
    arm_environment,
    hold_to_beginning,
    read_plan,
    write_beginning,
)
from lightning_vgg.compare.twin import Twin, prepare
from lightning_vgg.experiment.parsing import ExplainingParser
from lightning_vgg.experiment.settings import config_text
from lightning_vgg.images.dataset import load_dataset
from lightning_vgg.report.comparison import read_comparison
from lightning_vgg.report.inputs import COMPARISON
from lightning_vgg.report.verdicts import undecided
from lightning_vgg.runs.folder import RunFolder, atomic_write
from lightning_vgg.runs.machine import share_of_machine

MEASURED = {"parity": (), "ablation": ("--ablate",), "horizon": ("--horizon",)}
"""What is measured beside the runs -> flags of ``lightning-vgg parity``."""


def begin(parser: ExplainingParser, args: list[str]) -> ComparisonPlan:
    """The comparison of a command line, new or continued.

    Raises:
        ExperimentError: for whatever can be refused without reading an image.
    """
    plan = read_plan(parser, args)
    hold_to_beginning(plan)
    seeds = " to ".join(str(seeds) for seeds in dict.fromkeys((plan.looks[0], plan.looks[-1])))
    print(f"compares {', '.join(arm.name for arm in plan.arms)} over {seeds} seeds in {plan.folder}")
    return plan


def compare(plan: ComparisonPlan) -> tuple[Path, bool]:
    """Run what is not finished yet, and report; returns report.html, and whether it is complete."""
    with interruptible():
        complete = carry_out(plan)
        return publish(plan), complete


@dataclass(frozen=True)
class ArmRun:
    """One training of a comparison: an arm with one seed."""

    arm: Arm
    seed: int
    run: RunFolder
    job: Job


def carry_out(plan: ComparisonPlan) -> bool:
    """Run what is not finished yet, and keep comparison.json; returns whether all is there.

    Raises:
        ExperimentError: before anything runs: images cannot be loaded, a network cannot be built, or another process
            works on the same comparison.
    """
    classes = {arm.name: len(load_dataset(arm.experiment.data).class_names) for arm in plan.arms}
    with alone(plan.folder) as held:
        twin = prepare_twin(plan)
        write_beginning(plan)
        write_settings(plan)
        keeper = Keeper(plan, twin)
        others = list(measurements(plan))  # the longest first
        runs: dict[str, tuple[RunFolder, int]] = {}
        if twin is not None:
            for job, run in twin.jobs(share_of_machine(plan.jobs)):
                others.append(job)
                runs[job.name] = run, twin.experiment.trainer.max_epochs
        for seeds in plan.looks:
            weights = initial_weights(plan, classes, seeds)
            for arm, seed in plan.members(seeds):
                member = training(plan, arm, seed, weights[arm.name, seed])
                keeper.members[member.job.name] = member
                runs[member.job.name] = member.run, arm.experiment.trainer.max_epochs
            jobs = [*others, *(member.job for member in keeper.members.values())]
            todo = [job for job in jobs if not job.made()]
            with Display(len(jobs), len(jobs) - len(todo), runs) as keeper.display:
                keeper.write()
                if plan.scheduler is None:
                    run_jobs(todo, plan.jobs, keeper, held)
                else:
                    run_on_cluster(todo, plan.scheduler, plan.folder, keeper)
            if not all(job.made() for job in jobs):
                return False
            questions = undecided(read_comparison(plan.folder / COMPARISON)) if seeds < plan.looks[-1] else []
            if not questions:
                break
            print(f"undecided after {seeds} seeds: {', '.join(questions)}", flush=True)
        return True


def prepare_twin(plan: ComparisonPlan) -> Twin | None:
    """The twin of the comparison, limited to the images that there are, and ready to be trained."""
    if plan.twin is None:
        return None
    experiment = plan.twin.experiment
    dataset = load_dataset(replace(experiment.data, train_images=plan.experiment.data.train_images))
    images = min(experiment.data.train_images or 0, len(dataset.train.labels) + len(dataset.val.labels))
    twin = replace(plan.twin, experiment=replace(experiment, data=replace(experiment.data, train_images=images)))
    prepare(twin, len(dataset.class_names))
    return twin


def write_settings(plan: ComparisonPlan) -> None:
    """The YAML files that the processes read."""
    files = {f"arms/{arm.name}.yaml": arm.experiment for arm in plan.arms} | {"experiment.yaml": plan.experiment}
    for name, experiment in files.items():
        with atomic_write(plan.folder / name) as file:
            file.write(config_text(experiment).encode())


def training(plan: ComparisonPlan, arm: Arm, seed: int, weights: str) -> ArmRun:
    run = plan.run(arm, seed)
    command = (
        program(arm.spec.framework),
        "fit",
        "-c",
        plan.folder / "arms" / f"{arm.name}.yaml",
        "--name",
        run.path.name,
        "--seed_everything",
        seed,
        "--model.init_from",
        weights,
    )
    job = Job(
        name=f"{arm.name} seed {seed}",
        command=tuple(map(str, command)),
        log=plan.folder / "logs" / f"{arm.name}_seed{seed}.log",
        made=lambda: "test_acc" in run.read_record(),
        environment=arm_environment(plan, arm),
        leftover=run.path,
    )
    return ArmRun(arm, seed, run, job)


def measurements(plan: ComparisonPlan) -> Iterator[Job]:
    """The parity ladder, the ablation and the horizon of the experiment, with the defaults of Keras."""
    spec = plan.compare
    wanted = {"parity": spec.ladder, "ablation": spec.ablation, "horizon": spec.horizon}
    for name, flags in MEASURED.items():
        if wanted[name]:
            made = plan.folder / f"{name}.json"
            yield Job(
                name=name,
                command=(
                    program("lightning"),
                    "parity",
                    *flags,
                    "-c",
                    str(plan.folder / "experiment.yaml"),
                    "--json",
                    str(made),
                    "--model.semantics",
                    "keras",
                    "--model.semantics_except",
                    "[]",
                ),
                log=plan.folder / "logs" / f"{name}.log",
                made=made.exists,
                environment=share_of_machine(plan.jobs),
            )


class Keeper:
    """Keeps comparison.json up to date while jobs run, and shows them."""

    display: Display

    def __init__(self, plan: ComparisonPlan, twin: Twin | None) -> None:
        self.plan = plan
        self.twin = twin
        self.members: dict[str, ArmRun] = {}
        self.failures: list[PlainDict] = []

    def started(self, job: Job) -> None:
        self.display.started(job)

    def made(self, job: Job, seconds: float) -> None:
        self.write()
        self.display.made(job, seconds)

    def failed(self, job: Job, words: str) -> None:
        if member := self.members.get(job.name):
            log = os.path.relpath(job.log, self.plan.folder)
            self.failures.append({"arm": member.arm.name, "seed": member.seed, "message": words, "log": log})
        self.write()
        self.display.failed(job, words)

    def tick(self) -> None:
        self.display.tick()

    def write(self) -> None:
        """What the report reads: finished runs only, in the order of display; paths are relative to this folder."""
        arms: dict[str, dict[str, str]] = {arm.name: {} for arm in self.plan.arms}
        for member in self.members.values():
            if member.job.made():
                arms[member.arm.name][str(member.seed)] = os.path.relpath(member.run.path, self.plan.folder)
        if self.twin is not None and not self.twin.answer.exists():
            self.twin.conclude()
        measured = {name: f"{name}.json" for name in MEASURED if (self.plan.folder / f"{name}.json").exists()}
        record = {
            "experiment": self.plan.experiment.experiment,
            "margin": self.plan.compare.margin,
            "reference": self.plan.compare.reference,
            "looks": self.plan.looks if self.plan.compare.seeds == "auto" else [],
            "control": self.plan.control and asdict(self.plan.control),
            "arms": {name: runs for name, runs in arms.items() if runs},
            "failed": self.failures,
            **{name: measured.get(name) for name in MEASURED},
            "twin": "twin/twin.json" if (self.plan.folder / "twin" / "twin.json").exists() else None,
        }
        with atomic_write(self.plan.folder / COMPARISON) as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")


def publish(plan: ComparisonPlan) -> Path:
    """Write the report and send it to W&B."""
    from lightning_vgg.compare.publish import log_report
    from lightning_vgg.report import read_answers, write_report

    report = write_report(read_comparison(plan.folder / COMPARISON), plan.folder)
    if "wandb" in plan.experiment.trainer.loggers:
        log_report(plan.folder, plan.group)
    print(*read_answers(plan.folder), f"report   {report}", sep="\n")
    return report
