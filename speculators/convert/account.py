"""What became of every field: a conversion says it, or it cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

KEPT, RENAMED, DERIVED, DROPPED = "kept", "renamed", "derived", "dropped"


class Fate(NamedTuple):
    """One field or tensor of the source, or one that the target has beside them."""

    name: str  # in the source; in the target where the source has none
    fate: str  # KEPT, RENAMED, DERIVED or DROPPED
    target: str = ""  # its name or value in the target
    why: str = ""


def accounted(
    source: Iterable[str], fates: Iterable[Fate], unread: Mapping[str, str], default: str
) -> list[Fate]:
    """``fates``, and one for each name of ``source`` that none of them is about.

    ``unread``: why a known name is left out; ``default``: why an unknown one is.
    """
    known = list(fates)
    said = {fate.name for fate in known}
    return known + [Fate(name, DROPPED, "", unread.get(name, default)) for name in source if name not in said]


def kept_or_renamed(source: str, target: str) -> Fate:
    """The fate of something that was only moved."""
    return Fate(source, KEPT if source == target else RENAMED, target)


def derived(name: str, value: Any, why: str) -> Fate:
    """A field that the source did not say."""
    return Fate(name, DERIVED, str(value), why)
