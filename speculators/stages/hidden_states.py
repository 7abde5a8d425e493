"""Stage ``hidden_states``: the verifier's states for every token of the responses, probed, in shards."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speculators.datagen import probe
from speculators.datagen.capture import CaptureRow, capture_engine, capture_rows, check_range
from speculators.datagen.disk import require_space, states_bytes
from speculators.datagen.shards import write_index, write_shard
from speculators.documents import read_json, read_jsonl, write_json
from speculators.errors import StageError
from speculators.stages.documents import StageInput

if TYPE_CHECKING:
    from vllm import LLM

DTYPE = torch.bfloat16
#: What the engine may write for the shard in flight, before it is packed.
ENGINE_ELEMENT_BYTES = 4


def run(step: StageInput) -> dict[str, Any]:
    """Leave ``shard-*.safetensors``, ``index.json`` and ``probe.json``."""
    verifier = step.result_of("verifier")
    facts = verifier["facts"]
    layers = [*step.values["algorithm"]["aux_layers"], facts["num_hidden_layers"]]
    rows = read_rows(step.inputs["responses"])
    size = step.values["datagen"]["rows_per_shard"]
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    _require_space(step.output, chunks, len(layers), facts["hidden_size"])
    scratch = step.output / "scratch"
    with capture_engine(
        step.inputs["verifier"] / "model",
        layers,
        step.values["engine"]["args"],
        scratch,
        trust_remote_code=verifier["trust_remote_code"],
    ) as engine:
        probed = _probe(step, engine, rows[: probe.PROMPTS], layers)
        started = time.monotonic()
        shards = [_write_shard(step.output, number, engine, chunk) for number, chunk in enumerate(chunks)]
        seconds = time.monotonic() - started
    shutil.rmtree(scratch)
    write_index(step.output, layers, facts["hidden_size"], str(DTYPE).removeprefix("torch."), shards)
    tokens = sum(shard["tokens"] for shard in shards)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "bytes": sum(shard["bytes"] for shard in shards),
        "tokens_per_second": round(tokens / seconds, 1),
        "probe": probed,
    }


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
    in_flight = states_bytes(max(tokens), layers, width, ENGINE_ELEMENT_BYTES)
    line = require_space(output, packed + in_flight)
    print(f"hidden states: {sum(tokens)} tokens x {layers} layers x {width}: {line}", flush=True)


def _probe(step: StageInput, engine: LLM, rows: list[CaptureRow], layers: list[int]) -> dict[str, Any]:
    """Leave ``probe.json``; returns its summary.

    Raises:
        StageError: the states are not what they claim to be.
    """
    documents = probe.capture_probe(engine, rows)
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
    wrong = probe.problems(documents, matches, greedy, tolerance)
    summary = {
        "prompts": len(documents),
        "largest_error": max(match.error for match in matches),
        "tolerance": tolerance.relative,
        "greedy_share": greedy.share,
        "greedy_positions": greedy.positions,
        "ties": greedy.ties,
        "tie_margin": tolerance.tie,
    }
    write_json(
        step.output / "probe.json",
        {**summary, "layers": [match._asdict() for match in matches], "problems": wrong},
    )
    if wrong:
        raise StageError(
            f"hidden states: the golden probe failed: {'; '.join(wrong)}",
            hint="training on these states would waste the run: see probe.json",
            rule="probe",
        )
    print(
        f"probe: states agree within {summary['largest_error']:.2g}, tokens at {greedy.share:.1%}", flush=True
    )
    return summary


def _write_shard(output: Path, number: int, engine: LLM, rows: list[CaptureRow]) -> dict[str, Any]:
    documents = capture_rows(engine, rows)
    for document in documents:
        check_range(document, DTYPE)
    entry = write_shard(output, number, documents, DTYPE)
    print(f"hidden states: shard {number}, {len(rows)} rows, {entry['tokens']} tokens", flush=True)
    return entry
