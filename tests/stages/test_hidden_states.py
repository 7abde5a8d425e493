"""The hidden_states stage whole, with a stand-in for the engine: what a continued attempt does again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators.datagen.capture import CaptureRow
from speculators.datagen.probe import Reference
from speculators.datagen.shards import Document, check_shards
from speculators.documents import read_json, write_json, write_jsonl
from speculators.errors import StageError
from speculators.stages import hidden_states as stage
from speculators.stages.__main__ import main
from speculators.stages.documents import OUTPUT_NAME, StageInput, write_output

DEPTH, WIDTH, ROWS = 3, 4, 5
LAYERS = [1, DEPTH]


class Killed(BaseException):
    """Like a kill: nothing in the product may catch it."""


class Engine:
    """Counts what is asked of it; dies with the capture numbered ``dies_at``."""

    def __init__(self) -> None:
        self.starts = self.probes = self.captures = 0
        self.dies_at = 0
        self.broken = 0.0

    @contextmanager
    def start(self, model: Path, layers: list[int], args: Any, scratch: Path, **_: Any) -> Iterator[Engine]:
        assert not scratch.exists()
        scratch.mkdir(parents=True)
        (scratch / "states").write_text("in flight")
        self.starts += 1
        yield self

    def capture(self, _: Engine, rows: Sequence[CaptureRow]) -> list[Document]:
        self.captures += 1
        if self.captures == self.dies_at:
            raise Killed
        return [document(row) for row in rows]

    def probe(self, _: Engine, rows: Sequence[CaptureRow]) -> list[Document]:
        self.probes += 1
        return [document(row) for row in rows]

    def references(self, _: Path, documents: Sequence[Document], **__: Any) -> Iterator[Reference]:
        for one in documents:
            layers = states(one.token_ids).transpose(0, 1) + self.broken  # [N + 1, T, H]
            # The state's first entry is the token before; the engine "generated" its successor.
            yield Reference(layers, lambda last: torch.eye(40)[(last[:, 0] + 1).long()])


def states(token_ids: torch.Tensor) -> torch.Tensor:
    """[T, N + 1, H]: every layer different, the last one tells the token."""
    layers = torch.arange(DEPTH, -1, -1)[None, :, None] * 50
    return (token_ids[:, None, None] + layers).float().expand(-1, -1, WIDTH).contiguous()


def document(row: CaptureRow) -> Document:
    token_ids = torch.tensor(row.token_ids)
    prompt_tokens = len(row.prompt_token_ids)
    return Document(
        row.id, row.group, row.split, row.looping, prompt_tokens, token_ids, states(token_ids)[:, LAYERS]
    )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(stage, "capture_engine", engine.start)
    monkeypatch.setattr(stage, "capture_rows", engine.capture)
    monkeypatch.setattr(stage.probe, "capture_probe", engine.probe)
    monkeypatch.setattr(stage.probe, "references", engine.references)
    return engine


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    facts = {"num_hidden_layers": DEPTH, "hidden_size": WIDTH}
    (root / "verifier").mkdir()
    verifier = StageInput("verifier", {}, {}, {}, root / "verifier")
    write_output(verifier, {"facts": facts, "trust_remote_code": False}, 0.0)
    rows = [
        {"id": f"row-{n}", "group": "t", "split": "train", "looping": False}
        | {"prompt_token_ids": [n + 1, n + 2], "output_token_ids": [n + 3, n + 4][: 1 + n % 2]}
        for n in range(ROWS)
    ]
    write_jsonl(root / "responses" / "shard-00000.jsonl", rows)
    write_json(root / "responses" / "index.json", {"shards": [{"file": "shard-00000.jsonl"}]})
    write_json(root / "responses" / "ledger.json", {"rows": ROWS})
    return {"verifier": root / "verifier", "responses": root / "responses"}


def run(inputs: dict[str, Path], output: Path) -> int:
    values = {
        "algorithm": {"aux_layers": LAYERS[:-1]},
        "datagen": {"rows_per_shard": 2},
        "engine": {"args": {}, "env": {}},
    }
    document = output.with_suffix(".input.json")
    write_json(document, StageInput("hidden_states", values, inputs, {}, output).document())
    return main(str(document))


def contents(output: Path) -> dict[str, bytes]:
    """All files below the output, but the one that times the attempt."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != OUTPUT_NAME
    }


def killed_at(engine: Engine, capture: int, inputs: dict[str, Path], output: Path) -> None:
    engine.dies_at = capture
    with pytest.raises(Killed):
        run(inputs, output)
    engine.dies_at = 0


def test_a_continued_attempt_captures_the_missing_shards_only(
    engine: Engine, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inputs, tmp_path / "undisturbed") == 0
    assert (engine.starts, engine.probes, engine.captures) == (1, 1, 3)
    killed_at(engine, 6, inputs, tmp_path / "out")
    assert run(inputs, tmp_path / "out") == 0
    assert (engine.starts, engine.probes, engine.captures) == (3, 2, 7)
    assert "hidden states: 2 of 3 shards are there already; continuing" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert sorted(contents(tmp_path / "out")) == [
        "index.json",
        "probe.json",
        *(f"shard-0000{number}.safetensors" for number in range(3)),
    ]


@pytest.mark.parametrize("moment", range(20))
def test_wherever_it_dies_the_continued_attempt_leaves_the_same_files(
    moment: int, engine: Engine, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inputs, tmp_path / "undisturbed")
    replace, passed = os.replace, iter(range(1000))

    def dying(source: Any, target: Any) -> None:
        if next(passed) == moment:
            os.truncate(source, 3)
            raise Killed
        replace(source, target)
        if next(passed) == moment:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            run(inputs, tmp_path / "out")
    assert run(inputs, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_damaged_shard_is_named_and_captured_again(
    engine: Engine, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at(engine, 3, inputs, tmp_path)
    shard = tmp_path / "shard-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(inputs, tmp_path) == 0
    assert engine.captures == 3 + 2
    assert f"{shard} differs from its recorded digest" in capsys.readouterr().out
    assert shard.read_bytes() == whole


def test_with_every_shard_there_no_engine_starts(
    engine: Engine, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stage, "close", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(inputs, tmp_path)
    assert run(inputs, tmp_path) == 0
    assert engine.starts == 1
    assert read_json(tmp_path / "probe.json")["problems"] == []


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_a_probe_that_failed_is_asked_again(
    error: float, engine: Engine, inputs: dict[str, Path], tmp_path: Path
) -> None:
    engine.broken = error
    assert run(inputs, tmp_path) == StageError.exit_code
    assert read_json(tmp_path / "probe.json")["problems"]
    engine.broken = 0.0
    assert run(inputs, tmp_path) == 0
    assert engine.probes == 2


def test_shards_that_disagree_with_index_or_ledger_are_refused(
    engine: Engine, inputs: dict[str, Path], tmp_path: Path
) -> None:
    run(inputs, tmp_path)
    check_shards(tmp_path, ROWS)
    with pytest.raises(StageError, match=r"index\.json: 5 rows, but the responses' ledger says 6"):
        check_shards(tmp_path, ROWS + 1)
    index = read_json(tmp_path / "index.json")
    index["shards"][1]["rows"][0]["tokens"] += 1
    write_json(tmp_path / "index.json", index)
    with pytest.raises(StageError, match=r"shard-00001\.safetensors: 2 rows, 7 tokens"):
        check_shards(tmp_path, ROWS)
