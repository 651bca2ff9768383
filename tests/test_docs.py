"""The site builds without a warning, fetches nothing, and what the pages name exists. No network is used."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from lightning_vgg.experiment.specs import DataSpec, ModelSpec

MANUAL = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "examples").glob("[0-9]*.py")),
]


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect", "modulepreload"):
            self.addresses.append(values["href"] or "")
        elif "src" in values:
            self.addresses.append(values["src"] or "")


def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).parent / "mkdocs"
    result = subprocess.run(
        [mkdocs, "build", "--strict", "--quiet", "--site-dir", tmp_path], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pages = sorted(tmp_path.glob("*.html"))
    assert {"index.html", "recipes.html", "api.html"} <= {page.name for page in pages}
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text())
        assert fetched.addresses
        elsewhere = [address for address in fetched.addresses if "//" in address]
        assert elsewhere == [], page.name
        assert not re.search(r":(class|func|meth|mod):|<p>::</p>", page.read_text()), page.name


def test_every_function_is_on_a_page() -> None:
    import keras_reference.api
    import lightning_vgg

    text = (REPOSITORY / "docs" / "api.md").read_text() + (REPOSITORY / "docs" / "keras.md").read_text()
    for name in lightning_vgg.__all__:
        assert re.search(rf"\b{name}\b", text), name
    for name, value in vars(keras_reference.api).items():
        if getattr(value, "__module__", None) == "keras_reference.api" and name in keras_reference.__all__:
            assert re.search(rf"members: \[.*\b{name}\b", text), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    found = 0
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        found += 1
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target
    assert found or page.name != "README.md"


def slug(heading: str) -> str:
    """As GitHub makes an anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_readme_fits_on_a_page() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
def test_configurations_and_settings_of_the_pages_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"(?<=-c )(?:vgg|transfer|compare|tune)/[\w.]+|(?<=-c )quickstart.yaml", text):
        assert (REPOSITORY / "configs" / path).is_file(), path
    keys = {"model", "data", *settings(ModelSpec, "model"), *settings(DataSpec, "data")}
    for key in re.findall(r"(?<![\w/.-])(?:--)?((?:model|data)\.[a-z][a-z0-9_.]*\w)", text):
        assert key in keys or key in {"model.fit", "model.compile"}, key


def settings(spec: type, place: str) -> Iterator[str]:
    """The dotted keys of a spec, groups included."""
    types = typing.get_type_hints(spec)
    for field in dataclasses.fields(spec):
        key = f"{place}.{field.name}"
        yield key
        for inner in (types[field.name], *typing.get_args(types[field.name])):
            if dataclasses.is_dataclass(inner):
                yield from settings(typing.cast(Any, inner), key)


@pytest.mark.parametrize("page", ["README.md", "docs/parity.md"])
def test_planted_faults_are_counted(page: str) -> None:
    module = ast.parse((REPOSITORY / "parity_tests" / "mutants.py").read_text())
    [mutants] = [
        node.value for node in module.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MUTANTS"
    ]
    assert isinstance(mutants, ast.List)
    assert f"{len(mutants.elts)} planted faults" in (REPOSITORY / page).read_text()
