"""The docs make a site: strictly, without the network, and with a reference that is the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nightshift.cli import reference
from nightshift.settings import settings

PROJECT = settings().project


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    written = {
        page.relative_to(PROJECT / "docs").with_suffix("") for page in (PROJECT / "docs").rglob("*.md")
    }
    built = {page.relative_to(site).with_suffix("") for page in site.rglob("*.html")}
    # The page of a folder is its index.
    there = {Path(*page.parts[:-1], "index") if page.name == "README" else page for page in written}
    assert there <= built


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    outside = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+rel=\"(?:stylesheet|preconnect)\"[^>]+href=\"https?:"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert [page.name for page in pages if outside.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_that_of_the_code(name: str) -> None:
    written = (PROJECT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "run `make reference`"
