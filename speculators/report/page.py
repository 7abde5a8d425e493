"""The report document as one HTML page: no script, no font, no request; light and dark, phone and desk.

Everything that comes from outside (prompts, answers, names, logs) is text from strangers: the template
escapes all of it, and characters that would change the page's own direction or hide are made visible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

from speculators.report import comparison, expectations, ledger, plots
from speculators.report.spelling import FILTERS

TEMPLATE = "report.html.jinja"
STYLE = "report.css"

#: Controls, and marks that turn or hide what stands behind them (Unicode's Bidi_Control and zero widths).
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

FIGURES = (
    ("Speedup", "by requests at a time; bars are 95 % intervals, beyond an arrow they go on", plots.speedup),
    ("Acceptance by position", "how often the k-th drafted token is accepted", plots.acceptance),
    ("Training loss", "mean of neighbouring steps", plots.loss),
    ("Accuracy on validation", "share of rows whose first k tokens are all right", plots.accuracy),
    ("Time by stage", "pale: made by an earlier run and reused", plots.stage_seconds),
    ("Disk by stage", "pale: made by an earlier run and reused", plots.stage_bytes),
)


class Figure(NamedTuple):
    """A plot with its words."""

    title: str
    caption: str
    drawing: Any


class Piece(NamedTuple):
    """A token of an answer: ``kind`` is accepted, missed or own (the verifier's)."""

    kind: str
    text: str


def render(document: dict[str, Any]) -> str:
    """The HTML page of a report document."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        **FILTERS,
        "visible": visible,
        "pieces": pieces,
        "comparison": comparison.text,
        "wanted": expectations.wanted,
    }
    parts = {"figures": list(figures(document)), "ledger": ledger.sentences(document)}
    return environment.get_template(TEMPLATE).render(document, **parts)


def _template(name: str) -> str:
    return (resources.files("speculators.report") / "templates" / name).read_text(encoding="utf-8")


def figures(document: dict[str, Any]) -> Iterator[Figure]:
    """The plots that there is something to show of."""
    for title, caption, draw in FIGURES:
        if (drawing := draw(document)) is not None:
            yield Figure(title, caption, drawing)


def visible(text: str) -> str:
    """``text`` with what cannot be seen written out."""
    return UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def pieces(example: dict[str, Any]) -> Iterator[Piece]:
    """An answer's tokens in order, each wrong proposal before the token that the verifier said instead."""
    accepted: set[int] = set()
    missed: dict[int, str] = {}
    for at, count, wrong in example["drafts"]:
        accepted.update(range(at, at + count))
        if wrong is not None:
            missed[at + count] = wrong
    for place, token in enumerate(example["tokens"]):
        if place in missed:
            yield Piece("missed", _ink(missed[place]))
        yield Piece("accepted" if place in accepted else "own", visible(token))


def _ink(token: str) -> str:
    """A rejected token, which must be seen even where it is only a space, a new line or nothing."""
    return (
        visible(token.replace("\n", "↵").replace("\t", "⇥")) if token.strip(" ") else "␣" * len(token) or "∅"
    )
