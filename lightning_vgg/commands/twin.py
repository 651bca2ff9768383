"""``lightning-vgg twin -c EXPERIMENT.yaml``: one training by both frameworks in float64. Is it the same one?"""

from __future__ import annotations

import sys

from lightning_vgg.compare.twin import read_twin, report_twin, train_twin, twin_parser
from lightning_vgg.report.words import twin_lines


def main(command: str, args: list[str]) -> None:
    twin = read_twin(twin_parser(f"lightning-vgg {command}"), args)
    # Said also where there is no GPU: it is a fact about the figures.
    print(f"trains in Lightning and in Keras in {twin.folder}: in float64 and on the CPU, where sums keep their order")
    sys.stdout.flush()
    try:
        answer = train_twin(twin)
    except KeyboardInterrupt as stop:
        print(f"stopped; the same command continues {twin.folder}", file=sys.stderr)
        sys.exit(128 + stop.args[0])
    print("\n".join(twin_lines(answer)))
    print(f"report   {report_twin(twin)}")
    if not answer["identical"]:
        sys.exit(1)
