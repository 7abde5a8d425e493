"""Strict YAML 1.2 text -> plain data with the position of every key and value.

Built on PyYAML's event stream, not on its constructors: those keep the last of two equal keys
without a word, read YAML 1.1 types, and merge ``<<``.  What a recipe does not need (anchors,
aliases, tags, several documents) is refused with its place, because it hides what a run will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from yaml import events as ev

from speculators.recipe.diagnostics import Diagnostic, diagnostic
from speculators.recipe.positions import Mark, Path, Positions, dotted
from speculators.recipe.yaml_scalars import resolve_plain

#: libyaml is several times faster, but PyYAML can be built without it.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: libyaml ends a line at each of these, so line numbers must too.
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
DEEPEST = 40

#: What git writes above the first of two versions that it could not merge.
UNMERGED = "<<<<<<< "

#: What people usually did when the parser says this.
SYNTAX_HINTS = {
    "found character that cannot start any token": "indent with spaces, not tabs; quote a value that "
    "begins with @, ` or %",
    "mapping values are not allowed": "quote a value that contains ': ', or check this line's indentation",
    "could not find expected ':'": "every line of a block needs 'key: value'",
    "did not find expected key": "check the indentation: keys of one block start in one column",
    "did not find expected ',' or": "a list in brackets needs commas and a closing bracket",
    "while scanning a quoted scalar": "a closing quote is missing",
}


class Document(NamedTuple):
    """Parsed text.  ``spoiled`` are paths whose value could not be read: further checks skip them."""

    data: Any
    positions: Positions
    diagnostics: tuple[Diagnostic, ...]
    spoiled: frozenset[Path]


def load_yaml(text: str, file: str) -> Document:
    """Parse ``text``; ``file`` is the name that diagnostics carry.  Never raises for bad input.

    After a syntax error ``data`` is None and ``spoiled`` holds the root.
    """
    builder = _Builder(text, file)
    try:
        data = builder.document(yaml.parse(text, Loader=Loader))
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        builder.problems.append(_syntax_error(error, builder))
        data = None
        builder.spoiled.add(())
    positions = Positions(file, builder.keys, builder.values)
    return Document(data, positions, tuple(builder.problems), frozenset(builder.spoiled))


class _Builder:
    """Folds the event stream into data and collects marks and problems on the way."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines = LINE_BREAK.split(text)
        self.keys: dict[Path, Mark] = {}
        self.values: dict[Path, Mark] = {}
        self.problems: list[Diagnostic] = []
        self.spoiled: set[Path] = set()

    def document(self, events: Iterator[Any]) -> Any:
        data: Any = None
        documents = 0
        for event in events:
            if isinstance(event, ev.DocumentStartEvent):
                documents += 1
                if event.version or event.tags:
                    self.problem(event, (), "directives (% lines) have no use in a recipe")
            elif not isinstance(event, ev.StreamStartEvent | ev.StreamEndEvent | ev.DocumentEndEvent):
                if documents == 1:
                    data = self.node(event, events, ())
                else:
                    self.problem(
                        event, (), "a recipe is one document", "remove everything from this '---' on"
                    )
                    break
        return data

    def node(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        """The value that starts with ``event``; takes the rest of it from ``events``."""
        self.values[path] = self.mark(event.start_mark, event.end_mark)
        if getattr(event, "anchor", None):
            self.problem(event, path, "anchors and aliases (& and *) are not allowed", "write the value out")
        if getattr(event, "tag", None):
            self.problem(event, path, "tags (!) are not allowed", "quote a value that begins with '!'")
        if len(path) > DEEPEST:
            self.problem(event, path, f"blocks are nested deeper than {DEEPEST}")
            _skip(event, events)
            return None
        if isinstance(event, ev.MappingStartEvent):
            return self.mapping(events, path, in_braces=bool(event.flow_style))
        if isinstance(event, ev.SequenceStartEvent):
            return self.sequence(events, path)
        return self.scalar(event, path) if isinstance(event, ev.ScalarEvent) else None

    def mapping(self, events: Iterator[Any], path: Path, *, in_braces: bool) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for event in events:
            if isinstance(event, ev.MappingEndEvent):
                break
            key = self.key(event, events, path, after_comma=in_braces and bool(result))
            if key is None:  # what stands behind it is no problem of its own
                _skip(next(events), events)
            elif key in result:
                first = self.keys[(*path, key)].line
                self.report(
                    event, "duplicate-key", f"key '{key}' is set twice", (f"first set at line {first}",)
                )
                self.node(next(events), events, (*path, key, "(again)"))
            else:
                self.keys[(*path, key)] = self.mark(event.start_mark, event.end_mark)
                result[key] = self.node(next(events), events, (*path, key))
        return result

    def key(self, event: Any, events: Iterator[Any], path: Path, *, after_comma: bool) -> str | None:
        """The key's text, or None after reporting why it cannot be one."""
        if not isinstance(event, ev.ScalarEvent):
            self.problem(event, (*path, "?"), "a key must be a word, not a list, block or alias")
            _skip(event, events)
            return None
        if event.anchor or event.tag:
            self.problem(event, (*path, event.value), "anchors and tags are not allowed on keys")
        if event.implicit[0] and event.value == "<<":
            self.problem(event, (*path, "<<"), "merge keys (<<) are not allowed", "write the values out")
            return None
        if event.implicit[0] and self.plain(event, path) != event.value:
            hint = "quote it, and with it what stands before the comma if both are one value"
            message = f"key {event.value or 'null'} is not a string"
            self.problem(event, (*path, event.value), message, hint if after_comma else "quote it")
        return str(event.value)

    def sequence(self, events: Iterator[Any], path: Path) -> list[Any]:
        result: list[Any] = []
        for event in events:
            if isinstance(event, ev.SequenceEndEvent):
                break
            result.append(self.node(event, events, (*path, len(result))))
        return result

    def scalar(self, event: Any, path: Path) -> Any:
        return self.plain(event, path) if event.implicit[0] else event.value

    def plain(self, event: Any, path: Path) -> Any:
        try:
            return resolve_plain(event.value)
        except ValueError as error:
            self.problem(event, path, str(error), "quote it if it is meant as text")
            return None

    def mark(self, start: Any, end: Any) -> Mark:
        source = self.lines[start.line] if start.line < len(self.lines) else ""
        stop = end.column if end.line == start.line else len(source.rstrip())
        return Mark(self.file, start.line + 1, start.column + 1, max(1, stop - start.column), source)

    def problem(self, event: Any, path: Path, message: str, hint: str = "") -> None:
        """Report ``message`` and keep later checks away from ``path``."""
        self.spoiled.add(path)
        mark = self.mark(event.start_mark, event.end_mark)
        where = f"{dotted(path)}: " if path and "?" not in path else ""
        self.problems.append(diagnostic("error", "yaml", where + message, mark, hint))

    def report(self, event: Any, rule: str, message: str, notes: tuple[str, ...]) -> None:
        mark = self.mark(event.start_mark, event.end_mark)
        self.problems.append(diagnostic("error", rule, message, mark, notes=notes))


def _skip(event: Any, events: Iterator[Any]) -> None:
    """Take the rest of the node that starts with ``event``, without recursion."""
    depth = int(isinstance(event, ev.CollectionStartEvent))
    while depth:
        event = next(events)
        depth += isinstance(event, ev.CollectionStartEvent)
        depth -= isinstance(event, ev.CollectionEndEvent)


def _syntax_error(error: Exception, builder: _Builder) -> Diagnostic:
    for number, line in enumerate(builder.lines, start=1):
        if line.startswith(UNMERGED):
            message = "not valid YAML: two versions of these lines stand here, a merge is not finished"
            hint = "keep one of them, and remove the lines that begin with <<<<<<<, ======= and >>>>>>>"
            place = Mark(builder.file, number, 1, len(line), line)
            return diagnostic("error", "yaml-syntax", message, place, hint)
    began, mark = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
    if mark is None or "end of stream" in str(getattr(error, "problem", "")):
        mark = began or mark  # what was never closed is at fault, not the last line
    place = builder.mark(mark, mark) if mark else Mark(builder.file)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "the text cannot be read"
    context = getattr(error, "context", None)
    notes: tuple[str, ...] = ()
    if context and began:
        notes = (f"{context} that begins at line {began.line + 1}",)
    said = f"{context}: {what}"
    hint = next((hint for sign, hint in SYNTAX_HINTS.items() if sign in said), "")
    return diagnostic("error", "yaml-syntax", f"not valid YAML: {what}", place, hint, notes)
