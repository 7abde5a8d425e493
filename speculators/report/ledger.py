"""What became of prompts, answers and states, a sentence each, on every page alike.

Stages keep their books as numbers under short names; who reads a report should not have to know the names.
A book of an earlier version may lack some of them: then nothing is said of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.report.spelling import counts, number, percent

Book = Mapping[str, Any]

#: What the prompts of each source are called.
SOURCES = {"file": "from files", "magpie": "written by the verifier itself"}


def sentences(document: Mapping[str, Any]) -> list[str]:
    """The books of a report document, from the prompts to the captured states."""
    data, summary, probe = document["data"], document["summary"], document["probe"]
    said = [
        *(_prompts(book, summary["requests"]) if (book := data.get("prompts")) else ()),
        *(_responses(book) if (book := data.get("responses")) else ()),
    ]
    if prepared := data.get("prepared"):
        said.append(f"Taken over from a prepared dataset: {counts(prepared)}.")
    if outputs := summary.get("outputs"):
        said.append(_outputs(outputs))
    if probe:
        said.append(_probe(probe))
    elif any(stage["name"] == "hidden_states" for stage in document["stages"]):
        said.append("The captured states were not probed in this run.")
    return said


def _prompts(book: Book, requests: int) -> Iterator[str]:
    if "train" in book:
        sources = book.get("sources", {})
        kept = [f"{one['kept']:,} {SOURCES.get(name, name)}" for name, one in sources.items()]
        origin = f": {', '.join(kept)}" if kept else ""
        yield f"Prompts: {book['train']:,} to train on, {book['validation']:,} to validate on{origin}."
        for name, one in sources.items():
            if one["dropped"]:
                yield f"Of those {SOURCES.get(name, name)} were left out: {counts(one['dropped'])}."
    if "benchmark" in book:
        yield f"The benchmark has {book['benchmark']:,} prompts; every arm was asked the first {requests:,}."


def _responses(book: Book) -> Iterator[str]:
    rows = book["rows"]
    tokens = f" with {book['tokens']:,} tokens in all" if "tokens" in book else ""
    speed = f", at {number(book['tokens_per_second'], 0)} tokens/s" if "tokens_per_second" in book else ""
    fates = [f"{book['length_limited']:,} were cut at the longest length"] if "length_limited" in book else []
    if rows and "looping" in book:
        fates.append(f"{book['looping']:,} ({percent(book['looping'] / rows)}) repeat themselves")
    after = f"; {', '.join(fates)}" if fates else ""
    yield f"Answers to train and validate on: {rows:,}{tokens}{speed}{after}."
    if book.get("dropped"):
        yield f"Answers left out: {counts(book['dropped'])}."


def _outputs(book: Book) -> str:
    return (
        f"Plain answers to the benchmark's prompts: {book['rows']:,} with {book['output_tokens']:,} tokens "
        f"in all; {book['length_limited']:,} were cut at the longest length, {book['looping']:,} repeat "
        "themselves."
    )


def _probe(book: Book) -> str:
    return (
        f"Captured states of {book['prompts']} prompts were computed once more by transformers: largest "
        f"error {book['largest_error']:.1e} (allowed {book['tolerance']:g}), the same greedy token at "
        f"{percent(book['greedy_share'])} of {book['greedy_positions'] - book.get('ties', 0)} positions."
    )
