"""``lightning-vgg compare -c EXPERIMENT.yaml``: arms times seeds, each run a process, and the report at the end."""

from __future__ import annotations

import sys

from lightning_vgg.compare.plan import comparison_parser
from lightning_vgg.compare.runner import begin, compare


def main(command: str, args: list[str]) -> None:
    plan = begin(comparison_parser(f"lightning-vgg {command}"), args)
    try:
        _, complete = compare(plan)
    except KeyboardInterrupt as stop:
        print(f"stopped; the same command continues {plan.folder}", file=sys.stderr)
        sys.exit(128 + stop.args[0])
    if not complete:
        sys.exit(1)
