"""``lightning-vgg dashboard``: the W&B project's workspace and report."""

from __future__ import annotations

import os

from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.extras import require
from lightning_vgg.runs.tracking import PROJECT


def main(command: str, args: list[str]) -> None:
    parser = CommandParser(
        f"lightning-vgg {command}",
        "Build the W&B project's workspace and report: curves of both frameworks overlaid, test results, "
        "speed, verdicts and the parity table. WANDB_PROJECT and WANDB_ENTITY have their usual meaning.",
    )
    parser.add_argument("--dry-run", action="store_true", help="print as JSON what would be made; needs no server")
    dry_run = parser.read(args).dry_run
    require("wandb_workspaces", "dashboard")
    from lightning_vgg.report import dashboard

    (dashboard.show if dry_run else dashboard.save)(os.environ.get("WANDB_PROJECT", PROJECT))
