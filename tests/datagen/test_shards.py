from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speculators.datagen.shards import Document, read_documents, write_index, write_shard
from speculators.errors import StageError

LAYERS, WIDTH = [1, 3], 4


def document(name: str, tokens: int, split: str = "train") -> Document:
    generator = torch.Generator().manual_seed(tokens)
    return Document(
        id=name,
        group="tides",
        split=split,
        looping=tokens % 2 == 0,
        prompt_tokens=tokens // 2,
        token_ids=torch.arange(tokens) + 7,
        hidden_states=torch.randn(tokens, len(LAYERS), WIDTH, generator=generator),
    )


def write(folder: Path, *shards: list[Document], dtype: torch.dtype = torch.bfloat16) -> None:
    entries = [write_shard(folder, number, documents, dtype) for number, documents in enumerate(shards)]
    write_index(folder, LAYERS, WIDTH, str(dtype).removeprefix("torch."), entries)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_documents_come_back_as_they_were_written(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    written = [document(f"row-{number}", size) for number, size in enumerate(sizes)]
    write(folder, written[:2], *([written[2:]] if written[2:] else []))
    for before, after in zip(written, read_documents(folder), strict=True):
        assert before[:5] == after[:5]
        assert torch.equal(before.token_ids, after.token_ids)
        assert torch.equal(before.hidden_states.bfloat16(), after.hidden_states)


def test_one_split_is_read_alone(tmp_path: Path) -> None:
    write(tmp_path, [document("a", 3), document("b", 4, "validation")], [document("c", 5)])
    assert [found.id for found in read_documents(tmp_path, "validation")] == ["b"]
    assert [found.id for found in read_documents(tmp_path, "train")] == ["a", "c"]


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    write(tmp_path, [document("a", 3)])
    shard = tmp_path / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StageError, match=r"shard-00000\.safetensors: the file differs"):
        list(read_documents(tmp_path))


def test_a_shard_leaves_no_partial_file(tmp_path: Path) -> None:
    write(tmp_path, [document("a", 3)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "shard-00000.safetensors"]
