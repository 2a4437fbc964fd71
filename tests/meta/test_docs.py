"""What the documents point at is there: tests, pages, source files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SRC = ROOT / "src" / "qworker"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", page.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


NAMED = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|lua))`", (ROOT / "docs" / "architecture.md").read_text())


def test_every_source_file_that_the_architecture_names_exists() -> None:
    assert NAMED
    assert [name for name in NAMED if not list(SRC.rglob(name))] == []


def test_the_architecture_says_of_every_source_file_what_it_does() -> None:
    """Of cli, demo and testing it names the package: what those do, their users' pages say."""
    named = {name.rpartition("/")[2] for name in NAMED}
    folders = (SRC, SRC / "worker", SRC / "pool", SRC / "broker", SRC / "broker" / "lua")
    files = [
        file for folder in folders for file in folder.iterdir() if re.fullmatch(r"[a-z][a-z_]*\.(py|lua)", file.name)
    ]

    assert len(files) > 100
    assert [str(file.relative_to(SRC)) for file in files if file.name not in named] == []
