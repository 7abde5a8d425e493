"""What a GGUF file says of its tokenizer, read from its header alone.

The library for these files reads all of one into arrays, which takes seconds and brings numpy; a plan
or a lock wants two digests.  Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
#: Bytes of each type of value that has a fixed size, by its number in the format.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
TOKENIZER = b"tokenizer."
CHAT_TEMPLATE = b"tokenizer.chat_template"
#: What reading meets in a file that is cut short, empty, or has lengths and types that cannot be.
MALFORMED = (struct.error, ValueError, LookupError, OverflowError, RecursionError)
COUNT = struct.Struct("<Q")
TYPE = struct.Struct("<I")


def tokenizer_digests(path: Path) -> dict[str, str]:
    """SHA-256 (hex) of the file's ``tokenizer`` entries and of its ``chat_template``, as far as it has them.

    Empty for a file that is no GGUF file of a version with 64-bit counts, or is cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _digests(view)
    except MALFORMED:
        return {}


def _digests(view: mmap.mmap) -> dict[str, str]:
    if view[:4] != MAGIC or TYPE.unpack_from(view, 4)[0] not in VERSIONS:
        return {}
    (entries,) = COUNT.unpack_from(view, 16)
    at, template, tokenizer = 24, b"", hashlib.sha256()
    found: dict[str, str] = {}
    for _ in range(entries):
        start, after = at, _after_string(view, at)
        key, (kind,) = view[at + COUNT.size : after], TYPE.unpack_from(view, after)
        at = _after_value(view, after + TYPE.size, kind)
        if at > len(view):
            return {}
        if key.startswith(TOKENIZER):
            tokenizer.update(view[start:at])
            found["tokenizer"] = tokenizer.hexdigest()
        if key == CHAT_TEMPLATE and kind == STRING:
            template = view[after + TYPE.size + COUNT.size : at]
            found["chat_template"] = hashlib.sha256(template).hexdigest()
    return found


def _after_string(view: mmap.mmap, at: int) -> int:
    length: int = COUNT.unpack_from(view, at)[0]
    return at + COUNT.size + length


def _after_value(view: mmap.mmap, at: int, kind: int) -> int:
    if kind == STRING:
        return _after_string(view, at)
    if kind != ARRAY:
        return at + SIZES[kind]
    (inner,) = TYPE.unpack_from(view, at)
    (length,) = COUNT.unpack_from(view, at + TYPE.size)
    at += TYPE.size + COUNT.size
    if inner in SIZES:
        return at + int(length) * SIZES[inner]
    for _ in range(length):
        at = _after_value(view, at, inner)
    return at
