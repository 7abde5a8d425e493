"""Stage ``hidden_states``: the verifier's states for every token of the responses, probed, in shards.

A recipe that brings prepared states has them taken over instead (``prepared_states``), as the same shards.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speculators.datagen import probe
from speculators.datagen.capture import CaptureRow, capture_engine, capture_rows, check_range
from speculators.datagen.continuation import (
    FinishedShard,
    finished_shards,
    read_record,
    record_shard,
    write_record,
)
from speculators.datagen.disk import require_space, states_bytes
from speculators.datagen.ledger import LEDGER
from speculators.datagen.shards import Document, check_shards, write_index, write_shard
from speculators.documents import read_json, read_jsonl, write_json
from speculators.errors import StageError
from speculators.recipe.view import PREPARED
from speculators.stages.documents import StageInput

if TYPE_CHECKING:
    from vllm import LLM

CONTINUES = True

PROBE = "probe.json"
#: What of it is too much for the stage's result.
PROBE_DETAILS = ("layers", "problems")
WASTED = "training on these states would waste the run: see probe.json"
DTYPE = torch.bfloat16
#: What the engine may write for the shard in flight, before it is packed.
ENGINE_ELEMENT_BYTES = 4


def run(step: StageInput) -> dict[str, Any]:
    """Leave ``shard-*.safetensors``, ``index.json`` and ``probe.json``."""
    if PREPARED in step.files:
        from speculators.stages.prepared_states import take

        return take(step)
    layers, width = shape(step)
    rows = read_rows(step.inputs["responses"])
    size = step.values["datagen"]["rows_per_shard"]
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    shards = finished_shards("hidden states", step.output, step.work, len(chunks))
    missing = {number: chunk for number, chunk in enumerate(chunks) if number not in shards}
    probed = read_record(step.work / PROBE)  # only a probe that passed is recorded
    if missing or probed is None:
        _require_space(step.output, list(missing.values()), len(layers), width)
        with _engine(step, layers) as engine:
            probed = probed or judge(
                step, probe.capture_probe(engine, rows[: probe.PROMPTS]), layers, probe.problems, WASTED
            )
            for number, chunk in missing.items():
                shards[number] = _finish(step, number, engine, chunk)
    count = read_json(step.inputs["responses"] / LEDGER)["rows"]
    return close(step, probed, [shards[number] for number in range(len(chunks))], count)


def shape(step: StageInput) -> tuple[list[int], int]:
    """The layers whose states the draft reads, ascending, the verifier's depth at the end; their width."""
    facts = step.result_of("verifier")["facts"]
    # A draft that reads the last layer only names no others.
    aux_layers = step.values.get("algorithm", {}).get("aux_layers", ())
    return [*aux_layers, facts["num_hidden_layers"]], facts["hidden_size"]


def close(step: StageInput, probed: dict[str, Any], shards: list[FinishedShard], rows: int) -> dict[str, Any]:
    """Leave probe and index beside the shards of ``rows`` rows, and the stage's result."""
    entries = [shard.entry for shard in shards]
    layers, width = shape(step)
    write_json(step.output / PROBE, probed)
    write_index(step.output, layers, width, str(DTYPE).removeprefix("torch."), entries)
    check_shards(step.output, rows)
    tokens = sum(entry["tokens"] for entry in entries)
    return {
        "rows": rows,
        "tokens": tokens,
        "bytes": sum(entry["bytes"] for entry in entries),
        "tokens_per_second": round(tokens / sum(shard.booked["seconds"] for shard in shards), 1),
        "probe": {name: value for name, value in probed.items() if name not in PROBE_DETAILS},
    }


@contextmanager
def _engine(step: StageInput, layers: list[int]) -> Iterator[LLM]:
    """The capturing engine over an empty scratch folder, which goes when the engine goes."""
    scratch = step.work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    with capture_engine(
        step.inputs["verifier"] / "model",
        layers,
        step.values["engine"]["args"],
        scratch,
        trust_remote_code=step.result_of("verifier")["trust_remote_code"],
    ) as engine:
        yield engine
    shutil.rmtree(scratch)


def read_rows(folder: Path) -> list[CaptureRow]:
    """The rows of a responses output, in order."""
    return [
        CaptureRow(*(row[field] for field in CaptureRow._fields))
        for shard in read_json(folder / "index.json")["shards"]
        for row in read_jsonl(folder / shard["file"])
    ]


def _require_space(output: Path, chunks: list[list[CaptureRow]], layers: int, width: int) -> None:
    tokens = [sum(len(row.token_ids) for row in chunk) for chunk in chunks]
    packed = states_bytes(sum(tokens), layers, width, DTYPE.itemsize)
    in_flight = states_bytes(max(tokens, default=0), layers, width, ENGINE_ELEMENT_BYTES)
    line = require_space(output, packed + in_flight)
    print(f"hidden states: {sum(tokens)} tokens x {layers} layers x {width}: {line}", flush=True)


def judge(
    step: StageInput,
    documents: list[Document],
    layers: list[int],
    problems: Callable[..., list[str]],
    hint: str,
) -> dict[str, Any]:
    """The findings of the golden probe on ``documents``, recorded for later attempts if it passed.

    Raises:
        StageError: with ``problems``; the states are not what they claim to be.
    """
    expected = list(
        probe.references(
            step.inputs["verifier"] / "model",
            documents,
            trust_remote_code=step.result_of("verifier")["trust_remote_code"],
        )
    )
    tolerance = probe.TOLERANCES[documents[0].hidden_states.dtype]
    matches = probe.layer_matches(documents, expected, layers)
    greedy = probe.greedy_match(documents, expected, tolerance.tie)
    found = {
        "prompts": len(documents),
        "largest_error": _number(max(match.error for match in matches)),
        "tolerance": tolerance.relative,
        "greedy_share": greedy.share,
        "greedy_positions": greedy.positions,
        "ties": greedy.ties,
        "tie_margin": tolerance.tie,
        "layers": [{name: _number(value) for name, value in match._asdict().items()} for match in matches],
        "problems": (wrong := problems(documents, matches, greedy, tolerance)),
    }
    if wrong:
        write_json(step.output / PROBE, found)
        raise StageError(
            f"hidden states: the golden probe failed: {'; '.join(wrong)}", hint=hint, rule="probe"
        )
    write_record(step.work / PROBE, found)
    error, share = found["largest_error"], found["greedy_share"]
    print(f"probe: states agree within {error:.2g}, tokens at {share:.1%}", flush=True)
    return found


def _number(value: float) -> float | None:
    """``value`` as JSON can hold it: states that are not finite give errors that are no numbers."""
    return value if math.isfinite(value) else None


def _finish(step: StageInput, number: int, engine: LLM, rows: list[CaptureRow]) -> FinishedShard:
    """Capture the rows as one shard, and record it."""
    started = time.monotonic()
    documents = capture_rows(engine, rows)
    for document in documents:
        check_range(document, DTYPE)
    entry = write_shard(step.output, number, documents, DTYPE)
    shard = FinishedShard(entry, {"seconds": time.monotonic() - started})
    record_shard(step.work, number, shard)
    print(f"hidden states: shard {number}, {len(rows)} rows, {entry['tokens']} tokens", flush=True)
    return shard
