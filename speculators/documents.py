"""JSON documents and digests: how every room writes, reads and identifies files.

Files appear whole or not at all (written beside the target, then renamed), because a run may be
killed at any moment and a later run must never trust half a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """The one spelling of ``value`` that digests are taken of: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def value_digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def tree_files(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted by their relative path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tree_digest(path: Path, digest: Callable[[Path], str] = file_digest) -> str:
    """SHA-256 (hex) of a file, or of the names and contents of all files below a folder.

    ``digest``: another way to the digest of one file, as from a memory.
    """
    if path.is_file():
        return digest(path)
    return value_digest({str(file.relative_to(path)): digest(file) for file in tree_files(path)})


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds either its old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write one readable JSON document atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The document in ``path``.  Raises ``OSError`` or ``json.JSONDecodeError``.

    What is no regular file is not opened: a stranger's folder may hold a pipe that nobody writes to, or a
    link to a device without end.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return json.loads(path.read_text(encoding="utf-8"))


def known_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty when it is not there, not JSON or not an object."""
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file, blank lines skipped."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)
