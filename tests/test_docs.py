"""The site builds without a warning, asks nobody else for anything, and links lead somewhere. No network is used."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import REPOSITORY

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
