"""``lightning-vgg twin -c EXPERIMENT.yaml``: one training by both frameworks in float64. Is it the same one?"""

from __future__ import annotations

import json
import sys

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.extras import require
from lightning_vgg.compare.twin import plan_twin, report_twin, train_twin, twin_lines
from lightning_vgg.experiment.parsing import config_files, experiment_spec, framework_free_parser
from lightning_vgg.runs.folder import RunFolder


def main(command: str, args: list[str]) -> None:
    parser = framework_free_parser(
        f"lightning-vgg {command}",
        "Train an experiment by both command lines, Lightning's and Keras's, in float64 and from the same weights, and "
        "say whether they end in the same prediction for every test image. Exit status 1 if not. The same command "
        "continues where it was stopped.",
    )
    parser.epilog = (
        "It trains on the CPU, also where there is a GPU: a GPU adds up in an order that may change from run to run. "
        "The twin goes to runs/<experiment>/twin-<name>; by default the name is that of the last YAML file."
    )
    experiment, files = experiment_spec(parser.read(args)), config_files(args)
    name = f"twin-{experiment.name or (files[-1].stem if files else 'defaults')}"
    folder = experiment.root / "runs" / experiment.experiment / name
    runs = {framework: RunFolder(folder.with_name(f"{name}_{framework}")) for framework in ("lightning", "keras")}
    twin = plan_twin(experiment, folder, runs)
    require("tensorflow", "keras")
    print(f"trains {experiment.experiment} in Lightning and in Keras, on the CPU in float64, in {folder}", flush=True)
    try:
        train_twin(twin)
    except KeyboardInterrupt as stop:
        print(f"stopped; the same command continues {folder}", file=sys.stderr)
        sys.exit(128 + stop.args[0])
    if not twin.answer.exists():
        raise ExperimentError("the twins did not both end: see the messages above; the same command continues them")
    answer = json.loads(twin.answer.read_text())
    print("\n".join(twin_lines(answer)))
    print(f"report   {report_twin(twin)}")
    if not answer["identical"]:
        sys.exit(1)
