"""``lightning-vgg parity -c X.yaml``: the ladder on the user's own experiment, as a table."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.keras_support import refuse_unimplemented
from lightning_vgg.experiment.parsing import experiment_spec, framework_free_parser
from lightning_vgg.experiment.specs import ExperimentSpec
from lightning_vgg.runs.folder import atomic_write
from parity_tests.tables import ablation_table, horizon_table, ladder_table, located_table, reported_table, wide_console

_OF_A_PAIR = ("--torch", "--keras")
"""Flags by which the user compares models of their own instead of an experiment."""


def main(command: str, args: list[str]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # measured on the CPU, where both compute in true float64
    if any(arg.partition("=")[0] in _OF_A_PAIR for arg in args):
        from parity_tests import pair_command

        require("tensorflow", "keras")
        return pair_command.main(command, args)
    parser = framework_free_parser(
        f"lightning-vgg {command}",
        "Measure, rung by rung, how far Lightning and Keras differ on an experiment. Exit status 1 if a rung fails, or "
        "--locate finds a culprit. Without an experiment, --torch my_net.py:Net --keras my_net.keras compares a torch "
        "module with a Keras model of the same job.",
    )
    parser.add_argument("--json", type=str | None, default=None, help="also write the numbers to this file")
    parser.add_argument("--ablate", type=bool, default=False, help="measure instead how much each default matters")
    parser.add_argument(
        "--locate", type=bool, default=False, help="measure each layer and stage alone: where do they part?"
    )
    parser.add_argument(
        "--horizon", type=bool, default=False, help="measure instead how long the trainings stay together"
    )
    args = [f"{arg}=true" if arg in _MEASUREMENTS else arg for arg in args]
    config = parser.read(args)
    require("tensorflow", "keras")
    # Whichever defaults Lightning is to follow, Keras follows its own.
    experiment = experiment_spec(config)
    model = replace(experiment.model, semantics="keras", semantics_except=[])
    refuse_unimplemented(replace(experiment, model=model))
    wanted = [measure for flag, measure in _MEASUREMENTS.items() if config[flag.removeprefix("--")]]
    if len(wanted) > 1:
        raise ExperimentError(f"{', '.join(_MEASUREMENTS)} are measurements of their own: give one of them")
    measure = wanted[0] if wanted else _climb
    if measure in (_ablate, _measure_horizons) and model.backbone is not None:
        raise ExperimentError("parity --ablate and --horizon know only networks without model.backbone: leave it out")
    figures = measure(experiment)
    if config.json is not None:
        with atomic_write(Path(config.json)) as file:
            file.write(json.dumps(figures, indent=2).encode() + b"\n")
        print(f"written to {config.json}")
    if not figures.get("passed", True):
        sys.exit(1)


def _climb(experiment: ExperimentSpec) -> PlainDict:
    from lightning_vgg.images.dataset import load_dataset
    from parity_tests.ladder import Rung, failed
    from parity_tests.transfer_ladder import ladder_of

    started = time.monotonic()
    found = []
    console = wide_console()
    dataset = load_dataset(experiment.data)
    with console.status("climbing") as status:
        for report in ladder_of(experiment, dataset).rungs():
            found.append(report)
            if not console.is_terminal:
                print(f"{time.monotonic() - started:5.0f} s  {report.name}, {report.precision}", flush=True)
            status.update(f"{len(found)} rungs climbed, last: {report.name}, {report.precision}")
    rungs = [report for report in found if isinstance(report, Rung)]
    reported = [report for report in found if not isinstance(report, Rung)]
    console.print(ladder_table(rungs))
    console.print(reported_table(reported))
    failures = failed(rungs)
    seconds = time.monotonic() - started
    console.print(f"{len(rungs) - len(failures)} of {len(rungs)} rungs passed, {seconds:.0f} s", highlight=False)
    return {
        "rungs": [rung.as_dict() for rung in rungs],
        "reported": [report.as_dict() for report in reported],
        "passed": not failures,
        "seconds": seconds,
    }


def _ablate(experiment: ExperimentSpec) -> PlainDict:
    from lightning_vgg.images.dataset import load_dataset
    from parity_tests.ablation import AFTER, ablate
    from parity_tests.ladder import Ladder

    dataset = load_dataset(experiment.data)
    batches = Ladder(experiment, dataset).batches(AFTER[-1], "float64")
    found = ablate(experiment, len(dataset.class_names), batches, dataset.class_weights)
    wide_console().print(ablation_table(found))
    return {"ablation": [vars(ablation) for ablation in found]}


def _measure_horizons(experiment: ExperimentSpec) -> PlainDict:
    from lightning_vgg.images.dataset import load_dataset
    from parity_tests.horizon import measure_horizons

    console, found = wide_console(), []
    with console.status("training side by side") as status:
        for horizon in measure_horizons(experiment, load_dataset(experiment.data)):
            found.append(horizon)
            status.update(f"{horizon.precision}, {horizon.arm}")
            if not console.is_terminal:
                print(f"{horizon.precision}, {horizon.arm}", flush=True)
    console.print(horizon_table(found))
    return {"horizon": [vars(horizon) for horizon in found]}


def _locate(experiment: ExperimentSpec) -> PlainDict:
    from lightning_vgg.images.dataset import load_dataset
    from parity_tests.locate import locate
    from parity_tests.transfer_ladder import ladder_of

    found = []
    console = wide_console()
    with console.status("measuring") as status:
        for finding in locate(ladder_of(experiment, load_dataset(experiment.data))):
            found.append(finding)
            status.update(f"{len(found)} quantities measured, last: {finding.where}, {finding.quantity}")
    console.print(located_table(found))
    culprit = next((finding for finding in found if finding.is_culprit), None)
    console.print(f"first culprit: {culprit}" if culprit else "no culprit", highlight=False, soft_wrap=True)
    return {
        "located": [finding.as_dict() for finding in found],
        "culprit": None if culprit is None else str(culprit),
        "passed": culprit is None,
    }


_MEASUREMENTS = {"--ablate": _ablate, "--locate": _locate, "--horizon": _measure_horizons}
