"""The report document as Markdown: a template and the ways in which figures are spelled."""

from __future__ import annotations

from importlib import resources
from typing import Any

from speculators.report import comparison, expectations, ledger
from speculators.report.spelling import FILTERS

TEMPLATE = "report.md.jinja"


def render(document: dict[str, Any]) -> str:
    """The Markdown page of a report document."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        **FILTERS,
        "cell": cell,
        "comparison": comparison.markdown,
        "expected": expectations.sentence,
    }
    text = (resources.files("speculators.report") / "templates" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(document, ledger=ledger.sentences(document))


def cell(text: str) -> str:
    """Text that is safe in a table."""
    return text.replace("|", "\\|").replace("\n", " ")
