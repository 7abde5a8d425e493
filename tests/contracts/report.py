"""Answers of several engines as text: a row a question, then what is missing and what differs.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from tests.contracts.answers import Answer, differences, status

Answers = Mapping[str, Answer]


class Row(Protocol):
    """What the report says of a question."""

    @property
    def name(self) -> str: ...
    @property
    def relied(self) -> str: ...
    @property
    def used(self) -> str: ...


def report(rows: Sequence[Row], engines: Mapping[str, Answers]) -> str:
    """The whole report; every engine is compared with the one before it."""
    return "\n".join([*_table(rows, engines), *_missing(rows, engines), *_differing(rows, engines)])


def anything_missing(engines: Mapping[str, Answers]) -> bool:
    """Whether an engine lacks something that we rely on."""
    return any(answer.missing for answers in engines.values() for answer in answers.values())


def changed(old: Answers, new: Answers) -> list[str]:
    """What differs between two sets of answers, a line each; also questions that only one was asked."""
    lines = [f"{name}: asked of one engine only" for name in sorted(old.keys() ^ new.keys())]
    for name in old.keys() & new.keys():
        lines += [f"{name}: {one}" for one in differences(old[name].facts, new[name].facts)]
        if old[name].missing != new[name].missing:
            lines.append(f"{name}: missing: {old[name].missing} -> {new[name].missing}")
    return sorted(lines)


def _table(rows: Sequence[Row], engines: Mapping[str, Answers]) -> Iterator[str]:
    width = max(len(row.name) for row in rows)
    yield f"{'question':{width}}  " + "  ".join(engines)
    for row in rows:
        cells = []
        before: Answer | None = None
        for name, answers in engines.items():
            answer = answers.get(row.name)
            cells.append(f"{status(answer, before) if answer else 'not asked':{len(name)}}")
            before = answer
        yield f"{row.name:{width}}  {'  '.join(cells)}".rstrip()


def _missing(rows: Sequence[Row], engines: Mapping[str, Answers]) -> Iterator[str]:
    for name, answers in engines.items():
        for row in rows:
            if row.name in answers and answers[row.name].missing:
                yield f"\nMISSING in {name}: {row.name}"
                yield from _why(row)
                yield from (f"  - {line}" for line in answers[row.name].missing)


def _differing(rows: Sequence[Row], engines: Mapping[str, Answers]) -> Iterator[str]:
    for (old_name, old), (new_name, new) in pairwise(engines.items()):
        for row in rows:
            if row.name not in old or row.name not in new:
                continue
            # What is missing is said above; a question that failed has no facts to compare.
            if new[row.name].facts and (found := differences(old[row.name].facts, new[row.name].facts)):
                yield f"\nDIFFERS from {old_name} to {new_name}: {row.name}"
                yield from _why(row)
                yield from (f"  - {one}" for one in found)


def _why(row: Row) -> Iterator[str]:
    yield f"  relied on: {row.relied}"
    yield f"  used in:   {row.used}"
