"""The experiments that come with the package are found from any folder, and the user's own files win."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONFIGS

from lightning_vgg.experiment.shipped import find_config, nearest_config, shipped_configs, shipped_names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_in_a_clone_they_are_those_of_the_clone() -> None:
    assert shipped_configs() == CONFIGS
    assert {CONFIGS / name for name in shipped_names()} == set(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", ["vgg/base.yaml", "configs/vgg/base.yaml", "./configs/vgg/base.yaml"])
def test_a_shipped_file_is_found_by_its_path(path: str) -> None:
    assert find_config(path) == CONFIGS / "vgg" / "base.yaml"


@pytest.mark.parametrize("path", ["vgg/base.yaml", "configs/vgg/base.yaml"])
def test_a_file_of_the_users_own_wins(path: str) -> None:
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text("name: mine\n")
    assert find_config(path) == Path(path)


@pytest.mark.parametrize(
    "path",
    ["missing.yaml", "base.yaml", "vgg", "../README.md", "configs/../README.md", "/vgg/base.yaml", "", "a" * 300],
)
def test_any_other_path_stays_as_it_is(path: str) -> None:
    assert find_config(path) == Path(path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("vgg/bsae.yaml", "vgg/base.yaml"),
        ("configs/quikstart.yaml", "quickstart.yaml"),
        ("vgg16.yaml", "vgg/vgg16.yaml"),
        ("experiments/vgg16.yml", "vgg/vgg16.yaml"),
        ("my_own_settings.yaml", None),
    ],
)
def test_a_hint_names_the_nearest(path: str, name: str | None) -> None:
    assert nearest_config(path) == name


def test_finding_one_loads_neither_yaml_nor_arrays() -> None:
    code = (
        "import sys\nfrom lightning_vgg.experiment.shipped import find_config\nfind_config('vgg/base.yaml')\n"
        "print(sorted({'yaml', 'numpy', 'jsonargparse', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
