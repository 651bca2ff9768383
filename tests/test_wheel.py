"""What a user gets who has no clone: the wheel, unpacked by itself and run from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CONFIGS, REPOSITORY, only_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("lightning_vgg-*.whl")
    return wheel


def test_it_holds_every_module_and_configuration_and_no_test(wheel: Path) -> None:
    packages = ("lightning_vgg", "keras_reference", "parity_tests")
    modules = {path.relative_to(REPOSITORY) for package in packages for path in (REPOSITORY / package).rglob("*.py")}
    tests = {path for path in modules if path.name == "conftest.py" or path.name.startswith("test_")}
    assert tests
    configs = {Path("lightning_vgg", path.relative_to(REPOSITORY)) for path in CONFIGS.rglob("*.yaml")}
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist()}
    assert {name for name in names if name.suffix in (".py", ".yaml")} == modules - tests | configs
    for other in ("py.typed", "report/templates/report.html.j2", "report/templates/report.css"):
        assert Path("lightning_vgg", other) in names


def test_it_trains_a_shipped_configuration_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    installed, work = tmp_path / "installed", tmp_path / "work"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", installed, wheel]
    subprocess.run(install, check=True, capture_output=True)
    work.mkdir()

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.check_output([sys.executable, *command], cwd=work, env=environment, text=True)

    assert Path(run("-c", "import lightning_vgg; print(lightning_vgg.__file__)").strip()).is_relative_to(installed)
    assert "vgg/base.yaml" in run("-m", "lightning_vgg", "configs")
    small = ["--data.train_images", "40", "--model.network.filters", "[2, 2]", "--trainer.max_epochs", "1"]
    run("-m", "lightning_vgg", "fit", "-c", "quickstart.yaml", *small, "--trainer.logger", "false")
    assert only_run(work).parent.name == "quickstart"
    assert [path.name for path in work.iterdir()] == ["runs"]
