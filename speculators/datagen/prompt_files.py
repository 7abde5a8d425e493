"""The files that prompts come in, each by its suffix: what people write, and what GuideLLM's loaders read.

A file is read once, by the stage that writes the prompts of all arms: were GuideLLM to read it in every
launch, nothing would say that all of them were asked the same.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from speculators.datagen.parquet import is_parquet, parquet_rows, read_parquet
from speculators.errors import RecipeError

__all__ = ["GZIP", "SUFFIXES", "UNREAD", "count_rows", "is_lines", "read_rows"]

GZIP = ".gz"
#: What GuideLLM 0.8.1 reads beyond these (``data/deserializers/file.py``), and traces and media.
UNREAD = (".arrow", ".db", ".h5", ".hdf5", ".sqlite", ".sqlite3", ".tar")

#: JSON may spell half of a character, which no file in UTF-8 can hold afterwards.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Numbered = Iterator[tuple[int, Any]]


def read_rows(path: Path) -> Numbered:
    """The rows of a file with their line, or in a Parquet or JSON file their number, from 1.

    Raises:
        MachineError: it is a Parquet file, and pyarrow is not installed.
        RecipeError: it cannot be read, or is not what its suffix says; names file and line.
    """
    if is_parquet(path):
        yield from enumerate(read_parquet(path), start=1)
        return
    with _readable(path), _opened(path) as file:
        yield from FORMS.get(_suffix(path), _json_lines)(file, path)


def count_rows(path: Path) -> int:
    """How many rows a prompt file has: lines that are not blank, or what the file itself says.

    Raises:
        MachineError: it is a Parquet file, and pyarrow is not installed.
        RecipeError: it cannot be read, or is not what its suffix says.
    """
    if is_parquet(path):
        return parquet_rows(path)
    if _suffix(path) in FORMS:
        return sum(1 for _ in read_rows(path))
    with _readable(path), gzip.open(path) if path.suffix == GZIP else path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def is_lines(path: Path) -> bool:
    """Whether each line of the file is a row as it stands."""
    return not is_parquet(path) and path.suffix != GZIP and path.suffix not in FORMS


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says of a file that cannot be read which one it is, and what it should be."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise RecipeError(
            f"{path}: cannot be read: {error}",
            hint=f"prompt files are {', '.join(SUFFIXES)}; text in UTF-8",
            rule="prompts",
        ) from error


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == GZIP else path.suffix


def _opened(path: Path) -> TextIO:
    # utf-8-sig: spreadsheets write a mark in front.
    # newline="": a csv cell may hold line ends of its own, and U+2028 ends no row.
    if path.suffix == GZIP:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _lines(file: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield number, line.rstrip("\r\n")  # what a line lacks at its end is not missed on the next one


def _json_lines(file: TextIO, path: Path) -> Numbered:
    for number, line in _lines(file):
        yield number, _parsed(line, path, number)


def _json(file: TextIO, path: Path) -> Numbered:
    """A list of rows; or JSON lines, which many a ``.json`` on the Hub is."""
    text = file.read()
    if not text.lstrip().startswith("["):
        for number, line in _lines(text.split("\n")):
            yield number, _parsed(line, path, number)
        return
    yield from enumerate(_parsed(text, path, 1), start=1)


def _parsed(text: str, path: Path, number: int) -> Any:
    try:
        row = json.loads(text)
        if SURROGATE.search(text):
            json.dumps(row, ensure_ascii=False).encode()
        return row
    except UnicodeEncodeError as error:
        what = "half of a surrogate pair, which is no character"
        raise RecipeError(f"{path}:{number}: {what}", hint=EXAMPLE, rule="prompts") from error
    except json.JSONDecodeError as error:
        place = f"{path}:{number + error.lineno - 1}:{error.colno}"
        what = error.msg.removesuffix(" at").removesuffix(" starting")  # the place of it stands in front
        raise RecipeError(f"{place}: not JSON: {what}", hint=EXAMPLE, rule="prompts") from error
    except RecursionError as error:
        raise RecipeError(f"{path}:{number}: nested too deeply", hint=EXAMPLE, rule="prompts") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise RecipeError(f"{path}:{number}: {error}", hint=EXAMPLE, rule="prompts") from error


def _csv(file: TextIO, path: Path) -> Numbered:
    """Rows of the columns that the first line names; an empty cell is no value."""
    reader = csv.DictReader(file)
    try:
        for row in reader:
            yield reader.line_num, {name: cell for name, cell in row.items() if name is not None and cell}
    except csv.Error as error:
        raise RecipeError(
            f"{path}:{reader.line_num}: {error}", hint="save it as JSON lines", rule="prompts"
        ) from error


def _text(file: TextIO, path: Path) -> Numbered:
    """A prompt a line."""
    for number, line in _lines(file):
        yield number, {"prompt": line.strip()}


EXAMPLE = 'rows look like {"id": "tides-1", "topic": "tides", "prompt": "Why are there two tides a day?"}'
FORMS: dict[str, Callable[[TextIO, Path], Numbered]] = {
    ".csv": _csv,
    ".json": _json,
    ".text": _text,
    ".txt": _text,
}
#: Of files on the Hub; any of them but Parquet may be compressed (``.gz``).
SUFFIXES = (".jsonl", *FORMS, ".parquet")
