"""Stage ``responses``: every training prompt with its answer in token ids, and a ledger of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from speculators.datagen.chat import thinking_modes
from speculators.datagen.context import configured_context
from speculators.datagen.continuation import FinishedShard, finished_shards, record_shard
from speculators.datagen.ledger import INDEX, LEDGER, Entry, check_responses, summary
from speculators.datagen.loops import is_looping
from speculators.datagen.responses import (
    Answer,
    Batch,
    Chunk,
    Generation,
    chunks,
    drop_reason,
    generate,
    keep,
    output_row,
)
from speculators.documents import file_digest, read_jsonl, write_json, write_jsonl
from speculators.errors import StageError
from speculators.stages.documents import StageInput

CONTINUES = True


def run(step: StageInput) -> dict[str, Any]:
    """Leave ``shard-*.jsonl``, ``index.json`` and ``ledger.json``; the result is the ledger and the speed."""
    batches = {"keep": _kept, "regenerate": _regenerated}[step.values["datagen"]["responses"]]
    size = step.values["datagen"]["rows_per_shard"]
    count = math.ceil(sum(1 for _ in _rows(step)) / size)
    shards = finished_shards("responses", step.output, step.work, count)
    if len(shards) < count:  # an engine with nothing to do would still take its minutes to start
        for batch in batches(step, chunks(_rows(step), size, frozenset(shards))):
            shards[batch.shard] = _finish(step, batch)
    return _close(step, [shards[number] for number in range(count)])


def _close(step: StageInput, shards: list[FinishedShard]) -> dict[str, Any]:
    entries = [Entry(*fields) for shard in shards for fields in shard.booked["entries"]]
    ledger = summary(entries)
    if not ledger["rows"]:
        raise StageError(
            f"responses: no row is left; dropped {ledger['dropped']}",
            hint="look at the prompts and at datagen.max_tokens",
            rule="no-rows",
        )
    write_json(step.output / INDEX, {"shards": [shard.entry for shard in shards]})
    write_json(step.output / LEDGER, ledger)
    check_responses(step.output)
    # The speed is not in the ledger: the same responses must leave the same files.
    generated = sum(entry.tokens for entry in entries)
    seconds = sum(shard.booked["seconds"] for shard in shards)
    return {**ledger, "tokens_per_second": round(generated / seconds, 1)}


def _regenerated(step: StageInput, wanted: Iterable[Chunk]) -> Iterator[Batch]:
    """Batches answered by the verifier, all in one engine."""
    from speculators.serving.offline import offline_engine

    with offline_engine(
        step.inputs["verifier"] / "model",
        step.values["engine"]["args"],
        seed=step.values["datagen"]["prompts"]["seed"],
        trust_remote_code=step.values["verifier"]["trust_remote_code"],
    ) as engine:
        how = _how(step, str(engine.get_tokenizer().chat_template))
        yield from generate(engine, wanted, how)


def _kept(step: StageInput, wanted: Iterable[Chunk]) -> Iterator[Batch]:
    """Batches whose answers are the data's own; only the tokenizer is needed."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        step.inputs["verifier"] / "model", trust_remote_code=step.values["verifier"]["trust_remote_code"]
    )
    longest = step.result_of("verifier")["facts"]["max_position_embeddings"]
    context = configured_context(step.values["engine"]["args"], longest)
    how = _how(step, str(tokenizer.chat_template))
    yield from keep(tokenizer, wanted, how, context)


def _how(step: StageInput, template: str) -> Generation:
    verifier, datagen = step.values["verifier"], step.values["datagen"]
    return Generation(
        verifier=verifier,
        modes=thinking_modes(verifier, template),
        stop_token_ids=step.result_of("verifier")["eos_token_ids"],
        max_tokens=datagen["max_tokens"],
        temperature=datagen["temperature"],
        seed=datagen["prompts"]["seed"],
    )


def _rows(step: StageInput) -> Iterator[dict[str, Any]]:
    return read_jsonl(step.inputs["prompts"] / "train.jsonl")


def _book(step: StageInput, batch: Batch) -> list[Entry]:
    """The fate of each of the batch's rows."""
    stop = step.result_of("verifier")["eos_token_ids"]
    drop_looping = step.values["datagen"]["looping_rows"] == "drop"
    return [
        Entry(answer, 0, False, "")
        if isinstance(answer, str)
        else Entry(
            drop_reason(answer, drop_looping=drop_looping, stop=stop),
            len(answer.output_token_ids),
            is_looping(answer.output_token_ids),
            answer.finish_reason,
        )
        for answer in batch.answers
    ]


def _finish(step: StageInput, batch: Batch) -> FinishedShard:
    """Write the kept rows of a batch as one shard, and record it."""
    booked = _book(step, batch)
    rows = [
        output_row(row, answer)
        for row, answer, entry in zip(batch.rows, batch.answers, booked)
        if entry.dropped is None and isinstance(answer, Answer)
    ]
    path = step.output / f"shard-{batch.shard:05d}.jsonl"
    write_jsonl(path, rows)
    tokens = sum(len(row["output_token_ids"]) for row in rows)
    shard = FinishedShard(
        {"file": path.name, "rows": len(rows), "tokens": tokens, "sha256": file_digest(path)},
        {"entries": [list(entry) for entry in booked], "seconds": batch.seconds},
    )
    record_shard(step.work, batch.shard, shard)
    counted = f"{len(rows)} rows, {tokens} tokens, {batch.seconds:.1f} s"
    print(f"responses: shard {batch.shard}, {counted}", flush=True)
    return shard
