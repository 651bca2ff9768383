"""What must not get into a run folder: keys, the environment, who trained where."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, only_run, run_in

from lightning_vgg.experiment.parsing import parse_experiment, read_experiment
from lightning_vgg.experiment.settings import plain_settings

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.slow
def test_a_run_folder_names_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home-of-planted"
    (home / "work").mkdir(parents=True)
    result = run_in(home / "work")(
        f"""
        fit -c {CONFIGS}/quickstart.yaml --trainer.max_epochs 1 --data.train_images 100
        --data.cache_dir {home}/cache --trainer.default_root_dir {home}/work
        """,
        HOME=str(home),
        USER="planted-user",
        LOGNAME="planted-user",
        HOSTNAME="planted-host",
        WANDB_API_KEY=KEY,
        WANDB_MODE="offline",
        PLANTED_TOKEN="planted-token",
    )
    assert "Warning" not in result.stderr
    run = only_run(home / "work")
    planted = [word.encode() for word in (str(home), "planted", KEY, sys.executable)]
    files = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 8 and any(path.suffix == ".wandb" for path in files)
    for path in files:
        contents = path.read_bytes()
        if path.suffix == ".ckpt":
            with zipfile.ZipFile(path) as checkpoint:
                contents = b"".join(checkpoint.read(name) for name in checkpoint.namelist())
        assert [word for word in planted if word in contents] == [], path
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["cache_dir"] == "~/cache"
    assert read_experiment(run / "config.yaml").data.cache_dir == "~/cache"


def test_the_password_of_an_address_is_in_no_kept_settings() -> None:
    """config.yaml, W&B's configuration, and a comparison's and a study's files are made of these."""
    address = "https://planted-user:planted-password@mirror.org:81/cifar?token=planted"
    experiment = parse_experiment(["--data.root", address])
    kept = plain_settings(experiment)
    assert experiment.data.root == address and "planted" not in yaml.safe_dump(kept)
    assert kept["data"]["root"] == "https://mirror.org:81/cifar"
