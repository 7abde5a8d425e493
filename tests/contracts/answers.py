"""One engine's answers, and how they differ from another's.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """``facts`` are compared between versions; ``missing`` is what we rely on and is not there."""

    facts: dict[str, Any]
    missing: tuple[str, ...] = ()


class Difference(NamedTuple):
    """One value that two engines give differently; None where one gives none."""

    place: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if isinstance(self.old, list) and isinstance(self.new, list):
            gone = [item for item in self.old if item not in self.new]
            added = [item for item in self.new if item not in self.old]
            if gone or added:
                changes = [*(f"-{item}" for item in gone), *(f"+{item}" for item in added)]
                return f"{self.place}: {', '.join(changes)}"
        return f"{self.place}: {_shown(self.old)} -> {_shown(self.new)}"


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested blocks with their dotted places; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flat(item, f"{place}.{name}" if place else str(name))
    else:
        yield place, value


def differences(old: Any, new: Any) -> list[Difference]:
    """What differs between two answers' facts, by place."""
    before, after = dict(flat(old)), dict(flat(new))
    places = [*before, *(place for place in after if place not in before)]
    return [
        Difference(place, before.get(place), after.get(place))
        for place in places
        if before.get(place) != after.get(place)
    ]


def status(answer: Answer, reference: Answer | None = None) -> str:
    """``missing``, ``differs`` (from ``reference``) or ``ok``."""
    if answer.missing:
        return "missing"
    return "differs" if reference and differences(reference.facts, answer.facts) else "ok"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
