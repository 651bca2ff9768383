"""How a run is logged to Weights & Biases: the same for both frameworks, without ever asking for a login."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import sys

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.scores import CLASS_COLUMNS, class_rows, confusion

PROJECT = "lightning-vgg"
STEP = "trainer/global_step"
"""The step axis of every curve, as lightning's WandbLogger names it."""
SPEED = ("startup_seconds", "images_per_second", "peak_memory_bytes")
"""Keys of run.json."""
CLASSES = "test_classes"
"""In the summary, by class: precision, recall, F1 and test images. A table of W&B's would be a file beside the curves,
and its absolute path would stand in the run."""
VERDICT_TABLE = "verdicts"
PARITY_TABLE = "parity"
"""Tables in the summary of a comparison's report."""
TWIN_DISTANCE = "twin/distance"
"""Curve of a comparison's report: how far apart the twins' weights are, over STEP."""


def horizon_curve(quantity: str, precision: str, arm: str) -> str:
    """Curve of a comparison's report, over STEP: how far a training goes apart from Lightning's.

    Args:
        quantity: ``weights`` or ``predictions``.
        precision: in which both train.
        arm: the other training.
    """
    return f"horizon/{quantity}/{precision}/{arm}"


def wandb_arguments(run: RunFolder, experiment: str, framework: str, config: PlainDict) -> PlainDict:
    """Arguments of ``wandb.init``.

    Without an API key the run is kept offline in the run folder, for ``wandb sync``: no prompt, no connection.
    ``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_RUN_GROUP`` and ``WANDB_JOB_TYPE`` have their usual
    meaning; a comparison sets the last two.

    Args:
        run: the curves lie in its wandb/.
        experiment: the group.
        framework: the job type, ``lightning`` or ``keras``.
        config: the whole configuration.
    """
    import wandb

    identity = run.read_record().get("wandb_id") or secrets.token_hex(4)
    run.update_record(wandb_id=identity)
    os.environ.setdefault("WANDB_MODE", "online" if has_api_key() else "offline")
    os.environ.setdefault("WANDB_SILENT", str(os.environ["WANDB_MODE"] == "offline").lower())
    wandb.setup()  # it sets the level of its log, whose file in the run folder says where that lies
    logging.getLogger("wandb").setLevel(logging.CRITICAL + 1)
    return {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "id": identity,
        # A resumed run continues its curves; offline each part is a file of its own, with the same id.
        "resume": None if os.environ["WANDB_MODE"] == "offline" else "allow",
        "name": run.path.name,
        "group": os.environ.get("WANDB_RUN_GROUP", experiment),
        "job_type": os.environ.get("WANDB_JOB_TYPE", framework),
        "dir": str(run.path),
        "config": config,
        "settings": wandb.Settings(console="off", disable_git=True, x_disable_machine_info=True, x_disable_meta=True),
    }


def summary(run: RunFolder) -> PlainDict:
    """What belongs into the summary of the W&B run, beside its curves: speed, and once it was tested the classes."""
    record = run.read_record()
    found = {name: record[name] for name in SPEED}
    if "test_acc" not in record:  # a trial of a study
        return found
    rows = class_rows(confusion(*run.read_predictions()), record["class_names"])
    return {**found, CLASSES: {name: dict(zip(CLASS_COLUMNS[1:], row, strict=True)) for name, *row in rows}}


def end_wandb_run(failed: bool) -> None:
    """A program may train more than once, and the next run would continue the curves of this one."""
    wandb = sys.modules.get("wandb")  # it takes a while to import, and a training without it does not
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def has_api_key() -> bool:
    """Whether wandb would find a key: in WANDB_API_KEY or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
