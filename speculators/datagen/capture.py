"""Hidden states of known tokens: prefill each row in the engine, collect what its connector wrote.

The engine writes one file a request; only one chunk of rows is in flight, so the scratch folder stays
small whatever the size of the data, and the packing into shards is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from speculators.datagen.context import CAPTURE_POSITIONS
from speculators.datagen.shards import Document
from speculators.datagen.state_files import drain, read_states, states_path
from speculators.errors import StageError
from speculators.serving.environment import has_cpu_engine
from speculators.serving.offline import offline_engine

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["CaptureRow", "capture_documents", "capture_engine", "capture_rows", "check_range"]

#: Rows in flight where the caller does not pack shards.
CHUNK = 32

CPU_CONNECTOR = {
    "kv_connector": "CpuHiddenStatesConnector",
    "kv_connector_module_path": "speculators.datagen.cpu_connector",
}
STOCK_CONNECTOR = {"kv_connector": "ExampleHiddenStatesConnector"}


class CaptureRow(NamedTuple):
    """One conversation whose states are wanted; fields as in ``shards.Document``."""

    id: str
    group: str
    split: str
    looping: bool
    prompt_token_ids: list[int]
    output_token_ids: list[int]

    @property
    def token_ids(self) -> list[int]:
        return self.prompt_token_ids + self.output_token_ids


def capture_documents(
    model_dir: Path,
    rows: Iterable[CaptureRow],
    layers: Sequence[int],
    engine_args: Mapping[str, Any],
    scratch: Path,
    **extra: Any,
) -> Iterator[Document]:
    """The rows with their states, in order: an engine of its own, ``CHUNK`` rows in flight.

    ``layers`` are captured in ascending order; N, the verifier's depth, is the last layer's output
    before the final norm.  ``scratch`` is filled and emptied.

    Raises:
        StageError: the engine did not give back the states of exactly the tokens it was sent.
    """
    remaining = iter(rows)
    with capture_engine(model_dir, layers, engine_args, scratch, **extra) as engine:
        while chunk := list(islice(remaining, CHUNK)):
            yield from capture_rows(engine, chunk)


@contextmanager
def capture_engine(
    model_dir: Path, layers: Sequence[int], engine_args: Mapping[str, Any], scratch: Path, **extra: Any
) -> Iterator[LLM]:
    """An offline engine whose requests leave their hidden states in ``scratch``."""
    scratch.mkdir(parents=True, exist_ok=True)
    connector = CPU_CONNECTOR if has_cpu_engine() else STOCK_CONNECTOR
    with offline_engine(
        model_dir,
        engine_args,
        seed=0,
        speculative_config={
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(layers)}},
        },
        kv_transfer_config={
            **connector,
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": str(scratch.resolve())},
        },
        **extra,
    ) as engine:
        yield engine


def capture_rows(engine: LLM, rows: Sequence[CaptureRow]) -> list[Document]:
    """The rows with their states, by one call of an engine from ``capture_engine``.

    All rows' files lie in its scratch folder at once; they are deleted when read.

    Raises:
        StageError: a row does not fit the context, or came back with other tokens or without states.
    """
    from vllm import SamplingParams

    longest = max(rows, key=lambda row: len(row.token_ids))
    if len(longest.token_ids) + CAPTURE_POSITIONS > engine.model_config.max_model_len:
        raise StageError(
            f"row {longest.id}: {len(longest.token_ids)} tokens do not fit engine.args.max_model_len "
            f"{engine.model_config.max_model_len} with the {CAPTURE_POSITIONS} positions that capture needs",
            hint="raise engine.args.max_model_len",
            rule="context",
        )
    outputs = engine.generate(
        [{"prompt_token_ids": row.token_ids} for row in rows],
        SamplingParams(temperature=0, max_tokens=1, detokenize=False),
        use_tqdm=False,
    )
    drain(engine)
    return [
        _document(row, read_states(states_path(output), row.token_ids))
        for row, output in zip(rows, outputs, strict=True)
    ]


def check_range(document: Document, dtype: torch.dtype) -> None:
    """Refuse states that ``dtype`` cannot hold.

    Raises:
        StageError: a state is not finite, or beyond the largest number of ``dtype``.
    """
    states = document.hidden_states
    largest = float(states.abs().max())
    if not largest <= torch.finfo(dtype).max:
        raise StageError(
            f"row {document.id}: hidden states reach {largest}, {dtype} holds up to {torch.finfo(dtype).max}",
            hint="non-finite states come from the engine: try engine.args.dtype float32",
            rule="range",
        )


def _document(row: CaptureRow, states: torch.Tensor) -> Document:
    return Document(
        id=row.id,
        group=row.group,
        split=row.split,
        looping=row.looping,
        prompt_tokens=len(row.prompt_token_ids),
        token_ids=torch.tensor(row.token_ids),  # [T]
        hidden_states=states,  # [T, L, H]
    )
