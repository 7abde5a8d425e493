"""A comparison as people read it: a sentence, a table of what changed, and what else was not the same.

It takes the comparison's document, so that a stored one reads like a fresh one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.benchmark.comparison import NOT_COMPARABLE, spelled
from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED
from speculators.report.spelling import difference

Document = Mapping[str, Any]
Figure = Mapping[str, Any]

MEANING = {
    OK: "no loss beyond the tolerances",
    UNDECIDED: "neither a loss nor its absence is certain",
    REGRESSION: "the speedup is not what it was",
    NOT_COMPARABLE: "nothing can be said",
}
#: asv's marks: worse, not certain, no worse.
MARKS = {REGRESSION: "-", UNDECIDED: "~", OK: "="}
HEAD = ("", "figure", "old", "new", "change", "one-sided bounds", "verdict")
LISTS = (("settings", "settings"), ("recipe", "recipe"), ("lock", "lock"))


def sentence(document: Document) -> str:
    """The verdict with its causes or reasons, in one line."""
    verdict = document["verdict"]
    why = document["causes"] or document["reasons"]
    text = f"{verdict}: {'; '.join(why) or MEANING[verdict]}"
    return f"{text} ({document['new']} against {document['old']})"


def text(document: Document) -> str:
    """The comparison for a terminal."""
    rows = [HEAD, *(_row(one) for one in document["figures"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    lines = [sentence(document)]
    if document["figures"]:
        lines += ["  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"  note  {remark}" for remark in _notes(document)]
    for title, name in LISTS:
        lines += [f"  {title}  {line}" for line in _differences(document.get(name, []))]
    return "\n".join(lines)


def markdown(document: Document) -> str:
    """The comparison as a Markdown section, for reports and pull requests."""
    lines = [f"**{sentence(document)}**", ""]
    if document["figures"]:
        lines += [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
        lines += [f"| {' | '.join(_row(one))} |" for one in document["figures"]]
        lines.append("")
    lines += [f"- {remark}" for remark in _notes(document)]
    for title, name in LISTS:
        lines += [f"- {title}: {line}" for line in _differences(document.get(name, []))]
    return "\n".join(lines).rstrip() + "\n"


def _notes(document: Document) -> Iterator[str]:
    """What a reader should know before believing the table."""
    reasons = document["reasons"]
    yield from reasons if len(reasons) > 1 else []
    yield from document["remarks"]
    shown = [one["name"] for one in document["figures"] if not one["gated"]]
    if shown:
        yield "the verdict rests on the other figures than those marked (shown)"


def _row(one: Figure) -> tuple[str, ...]:
    at = "" if one["concurrency"] is None else f" at {one['concurrency']}"
    shares = one["low"] is None
    bounds = "" if shares else f"[{difference(one['low'])}, {difference(one['high'])}]"
    values = (f"{one[side]:.1%}" if shares else f"{one[side]:.3f}" for side in ("old", "new"))
    verdict = one["verdict"] + ("" if one["gated"] else " (shown)")
    return (MARKS[one["verdict"]], one["name"] + at, *values, difference(one["change"]), bounds, verdict)


def _differences(found: list[Mapping[str, Any]]) -> Iterator[str]:
    for one in found:
        yield f"{one['name']}: {spelled(one['old'])} -> {spelled(one['new'])}"
