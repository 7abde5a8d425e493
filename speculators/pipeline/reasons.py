"""Why a stage runs: the parts of its key against those of the output that is nearest to it.

A hash that differs tells nobody anything.  The parts do: a value and the line it stands in, an
input, a file, a package, a module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

#: Recipe path -> where it is written, or "" where nobody wrote it.
Place = Callable[[str], str]

WIDTH = 60
ABSENT = object()


class Reason(NamedTuple):
    """One difference.  ``place`` is ``file:line`` where the recipe says so."""

    kind: str
    text: str
    place: str = ""


def differences(old: dict[str, Any], new: dict[str, Any], place: Place) -> list[Reason]:
    """What differs between two keys, in the order in which it is worth reading."""
    return [
        *_values(old.get("values", {}), new["values"], place),
        *_files(old.get("files", {}), new["files"], place),
        *_named("source", old.get("sources", {}), new["sources"], "what the verifier's name stands for: "),
        *_inputs(old.get("inputs", {}), new["inputs"]),
        *_named("package", old.get("environment", {}), new["environment"]),
        *_modules(old.get("code", {}), new["code"]),
    ]


def distance(old: dict[str, Any], new: dict[str, Any]) -> int:
    """In how many things two keys differ; code counts once, for one edit touches many stages."""
    reasons = differences(old, new, lambda _: "")
    modules = sum(reason.kind == "module" for reason in reasons)
    return len(reasons) - max(0, modules - 1)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested blocks by dotted path; a list is a leaf."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        leaves |= flatten(item, f"{path}.{name}" if path else str(name))
    return leaves


def _values(old: dict[str, Any], new: dict[str, Any], place: Place) -> Iterator[Reason]:
    before, after = flatten(old), flatten(new)
    for path in sorted(before.keys() | after.keys()):
        was, now = before.get(path, ABSENT), after.get(path, ABSENT)
        if was != now and path:
            yield Reason("value", f"{path} {_spelled(was)} -> {_spelled(now)}", place(path))


def _files(old: dict[str, list[str]], new: dict[str, list[str]], place: Place) -> Iterator[Reason]:
    for path in sorted(old.keys() | new.keys()):
        was, now = old.get(path, []), new.get(path, [])
        if was == now:
            continue
        count = f"{len(was)} files -> {len(now)} files" if len(was) != len(now) else "other contents"
        yield Reason("file", f"{path}: {count}", place(path))


def _inputs(old: dict[str, str], new: dict[str, str]) -> Iterator[Reason]:
    for stage in new:
        if new[stage] != old.get(stage):
            yield Reason("input", f"input changed: {stage} {old.get(stage, 'none')[:7]} -> {new[stage][:7]}")


def _named(kind: str, old: dict[str, str], new: dict[str, str], prefix: str = "") -> Iterator[Reason]:
    for name in sorted(old.keys() | new.keys()):
        # Of an image that nobody knows yet the digest is empty: no other thing than none.
        was, now = old.get(name) or "none", new.get(name) or "none"
        if was != now:
            yield Reason(kind, f"{prefix}{name} {was} -> {now}")


def _modules(old: dict[str, str], new: dict[str, str]) -> Iterator[Reason]:
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            yield Reason("module", f"module {name} is new")
        elif name not in new:
            yield Reason("module", f"module {name} is gone")
        elif old[name] != new[name]:
            yield Reason("module", f"module {name} changed")


def _spelled(value: Any) -> str:
    if value is ABSENT:
        return "unset"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
