"""What a cross-field rule sees: a recipe's resolved values, their places, the verifier's facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from speculators.benchmark.rounds import FREE_ARMS
from speculators.recipe.diagnostics import Diagnostic, Severity, diagnostic
from speculators.recipe.facts import VerifierFacts
from speculators.recipe.positions import Path, Positions, split_path

#: Recipe paths that name a model besides the verifier: a folder, or repository@revision on the hub.
BROUGHT_MODELS = ("draft", "training.init_from", "benchmark.quantised")
#: The recipe path of a dataset that comes with its hidden states.
PREPARED = "datagen.prepared"
#: Recipe paths whose values name files or folders, relative to the recipe.
FILES = (
    "verifier.path",
    *BROUGHT_MODELS,
    "datagen.prompts.files",
    PREPARED,
    "benchmark.prompts",
)


def free_kind(data: Mapping[str, Any]) -> str:
    """The algorithm of a recipe that speculates without a draft model; empty where there is one."""
    kind = named(data, "algorithm.kind")
    return kind if kind in FREE_ARMS else ""


def trains(data: Mapping[str, Any]) -> bool:
    """Whether a recipe makes its draft, instead of bringing one or needing none."""
    return not data.get("draft") and not free_kind(data)


def named(data: Any, dotted: str) -> Any:
    """The value at a dotted path of a recipe's data, sound or not; None where there is none."""
    value: Any = data
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class View(NamedTuple):
    """``data`` has its defaults and lacks every value that the schema check refused.

    ``folder`` is where the recipe lies: its file names are relative to that.  ``bad`` are the paths
    of what was refused, so that a rule can tell "refused" from "never written".
    """

    data: Mapping[str, Any]
    positions: Positions
    facts: VerifierFacts | None
    folder: FilePath
    bad: frozenset[Path] = frozenset()

    def has(self, name: str) -> bool:
        return self._find(name) is not _ABSENT

    def get(self, name: str, default: Any = None) -> Any:
        """The value at a dotted path, or ``default``."""
        found = self._find(name)
        return default if found is _ABSENT else found

    def is_sound(self, name: str) -> bool:
        """Whether nothing at or below ``name`` was refused."""
        path = split_path(name)
        return not any(bad[: len(path)] == path for bad in self.bad)

    def _find(self, name: str) -> Any:
        value: Any = self.data
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return _ABSENT
            value = value[part]
        return value

    def problem(
        self,
        severity: Severity,
        rule: str,
        name: str,
        message: str,
        hint: str = "",
        *,
        key: bool = False,
        item: int | None = None,
        uses: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> Diagnostic:
        """A diagnostic at the value of ``name`` (or its ``key``, or its ``item``-th item).

        ``uses`` are further paths that take part: those left at their default are named in a note.
        """
        path = split_path(name)
        mark = self.positions.key(path) if key else self.positions.value(path)
        if item is not None:
            mark = self.positions.value((*path, item))
        notes += tuple(
            f"{used} is at its default, {json.dumps(self.get(used))}"
            for used in (name, *uses)
            if self.has(used) and not self.positions.has(split_path(used))
        )
        return diagnostic(severity, rule, message, mark, hint, notes)


_ABSENT = object()
