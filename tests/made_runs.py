"""Small run folders with known results, written as a training writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.mistakes import Attention, keep_mistakes

CLASS_NAMES = ["cat", "dog", "<ox>", "eel"]
LABELS = np.tile(np.arange(4), 50)
EPOCHS = 4


def make_run(
    folder: Path,
    framework: str = "lightning",
    semantics: str = "keras",
    seed: int = 0,
    wrong: int = 10,
    settings: dict[str, Any] | None = None,
    **record: Any,
) -> RunFolder:
    """A finished run of which the first ``wrong`` of 200 test images are taken for the next class.

    Args:
        folder: of the run.
        framework, semantics, seed: as in run.json.
        wrong: test images.
        settings: keys of config.yaml's ``data`` that differ.
        record: keys of run.json that differ.
    """
    run = RunFolder(folder)
    config = {
        "experiment": "made",
        "name": folder.name,
        "seed_everything": seed,
        "model": {"optimizer": {"name": "adam", "learning_rate": 0.001}, "semantics": semantics},
        "data": {"source": "digits", "batch_size": 32, "augmentation": {"flip": False}, **(settings or {})},
        "trainer": {"max_epochs": EPOCHS},
    }
    run.write_config(yaml.safe_dump(config))
    for epoch in range(1, EPOCHS + 1):
        accuracy = 0.5 + 0.1 * epoch - 0.001 * wrong
        run.write_history(
            {
                "epoch": epoch,
                "step": 10 * epoch,
                "train_loss": 2 / epoch + 0.01 * seed,
                "train_acc": accuracy,
                "val_loss": 2.1 / epoch,
                "val_acc": accuracy,
                "learning_rate": 0.001,
                "seconds": 2.0 + seed,
            }
        )
    predicted = LABELS.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % 4
    logits = 3 * np.eye(4)[predicted] + np.random.default_rng(seed).uniform(0, 1, (200, 4))
    run.write_predictions(LABELS, logits.astype(np.float32))
    versions = {"lightning": {"torch": "2.14.1", "lightning": "2.6.6"}, "keras": {"keras": "3.15.1"}}[framework]
    run.update_record(
        **{
            "framework": framework,
            **({"backend": "tensorflow"} if framework == "keras" else {}),
            "versions": {"python": "3.11.7", **versions},
            "device": "a processor",
            "threads": 2,
            "processes": 1,
            "precision": "32-true",
            "seed": seed,
            "semantics": semantics,
            "semantics_except": [],
            "initial_weights_sha256": f"{seed}" * 64,
            "data_fingerprint": "f" * 64,
            "class_names": CLASS_NAMES,
            "images": {"train": 400, "val": 40, "test": 200},
            "parameters": 3850,
            "trainable_parameters": 3850,
            "startup_seconds": 5.0,
            "images_per_second": 1000.0,
            "peak_memory_bytes": 2**30,
            "checkpoint": f"/somewhere/{folder.name}/checkpoints/best.ckpt",
            "test_loss": 0.3,
            "test_acc": 1 - wrong / 200,
            **record,
        }
    )
    return run


LEFT_HALF = Attention("block2.conv1", lambda image, label: np.array([[1.0, 0.0]]))


def make_mistaken_run(folder: Path, wrong: int = 20, attention: Attention | str = LEFT_HALF) -> RunFolder:
    """A run with pictures of its mistakes: as many images of each class are taken for the next one."""
    run = make_run(folder, wrong=wrong)
    keep_mistakes(run, np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8), attention)
    return run


def make_comparison(folder: Path) -> Path:
    """A comparison.json of four arms and four seeds, with failures, a ladder and an ablation; returns its path.

    lightning-keras is equivalent to keras at five points and has wrong = 10, 12, 11, 10 of 200 against 11, 12, 10, 11;
    lightning-torch starts from weights of its own and is far worse. lightning-keras-rounded is the control of rounding.
    """
    wrong = {
        "lightning-keras": (10, 12, 11, 10),
        "lightning-torch": (60, 66, 58, 64),
        "keras": (11, 12, 10, 11),
        "lightning-keras-rounded": (12, 12, 10, 9),
    }
    arms: dict[str, dict[str, str]] = {}
    for arm, numbers in wrong.items():
        framework, _, semantics = arm.removesuffix("-rounded").partition("-")
        own = {"initial_weights_sha256": "a" * 64} if semantics == "torch" else {}
        for seed, number in enumerate(numbers):
            name = f"{arm}_seed{seed}"
            rate = 1500.0 if framework == "lightning" else 1000.0 + 100 * seed
            make_run(folder / name, framework, semantics or "keras", seed, number, images_per_second=rate, **own)
            arms.setdefault(arm, {})[str(seed)] = name
    (folder / "parity.json").write_text(json.dumps({"rungs": RUNGS, "reported": REPORTED, "passed": False}))
    (folder / "ablation.json").write_text(json.dumps({"ablation": ABLATION}))
    (folder / "twin.json").write_text(json.dumps(TWIN))
    (folder / "horizon.json").write_text(json.dumps({"horizon": HORIZON}))
    record = {
        "experiment": "made",
        "margin": 0.05,
        "reference": "keras",
        "looks": [],
        "control": {"arm": "lightning-keras", "other": "keras", "rounded": "lightning-keras-rounded"},
        "arms": arms,
        "failed": [{"arm": "keras", "seed": 4, "message": "killed by SIGKILL: <out of memory>", "log": "logs/k4.log"}],
        "parity": "parity.json",
        "ablation": "ablation.json",
        "twin": "twin.json",
        "horizon": "horizon.json",
    }
    (folder / "comparison.json").write_text(json.dumps(record))
    return folder / "comparison.json"


def _rung(name: str, precision: str, measured: float, limit: float, control: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "precision": precision,
        "measured": measured,
        "worst": "w",
        "limit": limit,
        "control": control,
        "passed": measured <= limit,
    }


RUNGS = [
    _rung("specification", "exact", 0.0, 0.0, None),
    _rung("forward", "float64", 5e-16, 1e-13, None),
    _rung("forward", "float32", 3e-7, 1e-6, 4e-7),
    _rung("adam, 1 step", "float64", 1e-14, 1e-10, None),
    _rung("adam, 1 step", "float32", 5e-4, 1e-5, 4e-6),
    _rung("sgd, 50 steps", "float32", 0.3, float("inf"), 0.2),  # as files were before there were reports
    _rung("gradients", "float64", float("inf"), 1e-12, None),
]
REPORTED = [{"name": "adam, 50 steps", "precision": "float32", "measured": 0.3, "worst": "w", "control": 0.2}]
ABLATION = [
    {"switch": "batch_norm_momentum", "distances": [9.0, 5.8, 1.6], "loss_change": 0.0},
    {"switch": "clip_epsilon", "distances": [0.0, 0.0, 0.0], "loss_change": 0.0},
]
TWIN = {
    "identical": True,
    "images": 200,
    "same_predictions": 200,
    "epochs": 2,
    "steps": 26,
    "losses": {"train_loss": 3e-15, "val_loss": 2e-14},
    "weights": {"distance": 4e-13, "tensor": "block1.conv1.bias"},
    "parted": None,
    "distances": [[1, 2e-14], [5, 3e-14], [26, 4e-13]],
}
HORIZON = [
    {
        "precision": precision,
        "arm": arm,
        "steps": [1, 10, 100],
        "weights": [distance, 10 * distance, 100 * distance],
        "predictions": [0.0, share / 2, share],
        "half": 10 if share else None,
    }
    for precision, arm, distance, share in (
        ("float64", "Keras", 1e-15, 0.0),
        ("float64", "other kernels", 1e-15, 0.0),
        ("float64", "batch_norm_epsilon", 1e-5, 0.1),
        ("float32", "Keras", 1e-4, 0.3),
        ("float32", "other kernels", 1e-5, 0.25),
    )
]
