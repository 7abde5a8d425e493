"""The documentation leads nowhere that is not there: files, sections of files, and recipes that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?P<file>[^)#\s]*)(?:#(?P<section>[^)\s]*))?\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
RECIPE = re.compile(r"recipes/([\w.-]+\.yaml)")


def sections(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_sections_that_are_there(page: Path) -> None:
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        if "://" in found["file"]:
            continue
        target = (page.parent / found["file"]).resolve() if found["file"] else page
        assert target.exists(), found[0]
        if found["section"]:
            assert found["section"] in sections(target), found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_are_named_ship(page: Path) -> None:
    named = set(RECIPE.findall(page.read_text(encoding="utf-8"))) - {
        "smollm2-135m-mine.yaml"
    }  # of a kind to be added
    assert {name for name in named if not (ROOT / "recipes" / name).exists()} == set()
