"""``lightning-vgg configs`` lists the shipped experiments and copies them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CONFIGS

from lightning_vgg.cli import run
from lightning_vgg.commands.configs import purpose

NAMES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


def test_each_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert lines[NAMES.index("vgg/base.yaml")].endswith(
        "  The lesson: a VGG of three convolutional blocks and one dense block, on CIFAR-10."
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_begins_with_a_comment_of_one_line_that_says_it(name: str) -> None:
    assert (CONFIGS / name).read_text().startswith("# ")
    text = purpose(CONFIGS / name)
    assert text.endswith((".", "?")) and len(text) <= 110


def test_copies_are_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["configs", "--copy", str(tmp_path / "new" / "mine")]) == 0
    copied = {path.relative_to(tmp_path / "new" / "mine").as_posix() for path in tmp_path.rglob("*.yaml")}
    assert copied == set(NAMES)
    for name in NAMES:
        assert (tmp_path / "new" / "mine" / name).read_bytes() == (CONFIGS / name).read_bytes()


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vgg").mkdir()
    (tmp_path / "vgg" / "base.yaml").write_text("name: mine\n")
    assert run(["configs", "--copy", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-vgg: error: nothing was copied") and "vgg/base.yaml" in error
    assert "quickstart.yaml" not in error
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["base.yaml"]
    assert (tmp_path / "vgg" / "base.yaml").read_text() == "name: mine\n"


def test_a_folder_that_cannot_be_made_is_said_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["configs", "--copy", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"lightning-vgg: error: {tmp_path / 'file'}: Not a directory\n"
