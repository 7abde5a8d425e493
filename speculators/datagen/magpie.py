"""Prompts that the verifier writes itself: it continues the chat template's opening user tag.

An instruct model that has only read "the user says:" writes what users of its training data said
(Xu et al., "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing",
2024).  It needs no data set and lands where the verifier is at home.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.datagen.continuation import read_record, write_record
from speculators.datagen.loops import is_looping
from speculators.datagen.prompts import Prompt
from speculators.datagen.seeds import request_seed
from speculators.datagen.selection import Selection
from speculators.errors import StageError

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["Opening", "Sample", "collect", "opening", "rejection", "remembered", "sampler"]

#: Requests of one call at most.
BATCH = 64

#: Give up after drawing this many samples per wanted prompt.
DRAWS_PER_PROMPT = 8

WORDS = (4, 80)
LETTERS = 0.6
SOURCE = "magpie"
MARKER = "marker0user0text"


class Opening(NamedTuple):
    """The template around a first user message: the text before it, and the text that ends it."""

    before: str
    after: str


class Sample(NamedTuple):
    """One drawn user message.  ``finished``: the model ended the turn by itself."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


def opening(render: Callable[[list[dict[str, str]]], str]) -> Opening:
    """The opening user tag of a chat template, found by rendering a marker and cutting there.

    ``render`` turns messages into text, without a generation prompt.

    Raises:
        StageError: the template does not print a user message as it is, once.
    """
    parts = render([{"role": "user", "content": MARKER}]).split(MARKER)
    if len(parts) != 2 or not parts[0] or not parts[1].strip():
        raise StageError(
            "magpie: the chat template does not print a user message once between two tags",
            hint="set datagen.prompts.magpie.count to 0 and bring prompt files",
            rule="magpie",
        )
    return Opening(parts[0], parts[1])


def rejection(sample: Sample, special_tokens: tuple[str, ...]) -> str | None:
    """Why a drawn message is no good prompt, or None."""
    words = len(sample.text.split())
    letters = sum(character.isalpha() or character.isspace() for character in sample.text)
    checks = (
        ("unfinished", not sample.finished),
        ("too_short", words < WORDS[0]),
        ("too_long", words > WORDS[1]),
        ("special_token", any(token in sample.text for token in special_tokens)),
        ("not_ascii", not sample.text.isascii()),
        ("few_letters", letters < LETTERS * len(sample.text)),
        ("looping", is_looping(sample.token_ids)),
        ("cut_off", re.search(r"[.?!:\"')\]}`;]$", sample.text) is None),
    )
    return next((reason for reason, bad in checks if bad), None)


def collect(
    draw: Callable[[int], list[Sample]], count: int, selection: Selection, special_tokens: tuple[str, ...]
) -> int:
    """Offer drawn prompts to ``selection`` until ``count`` are kept; returns how many were kept.

    ``draw(n)`` gives the n-th batch.  Stops short after ``DRAWS_PER_PROMPT * count`` draws.
    """
    kept = 0
    for number, sample in enumerate(_drawn(draw, DRAWS_PER_PROMPT * count)):
        name = f"{SOURCE}-{number:06d}"
        prompt = Prompt(name, SOURCE, SOURCE, [{"role": "user", "content": sample.text}])
        if reason := rejection(sample, special_tokens):
            selection.drop(prompt, reason)
        elif selection.offer(prompt):
            kept += 1
        if kept == count:  # before the next sample is asked for: that may cost a batch
            break
    return kept


def batch_size(count: int) -> int:
    """Requests of one call where ``count`` prompts are wanted.

    It depends on nothing else: a call's size changes the order of floating-point sums, and so its text.
    """
    return min(BATCH, 2 * count)


def sampler(
    engine: LLM, start: Opening, settings: Mapping[str, Any], seed: int
) -> Callable[[int], list[Sample]]:
    """``draw`` for ``collect``: batch n of seeded samples after the opening tag."""
    from vllm import SamplingParams

    tokenizer: Any = engine.get_tokenizer()
    size = batch_size(settings["count"])
    # Templates print their own special tokens: the tokenizer must not add more.
    prompt = {"prompt_token_ids": tokenizer.encode(start.before, add_special_tokens=False)}
    end = _end_of_turn(tokenizer, start.after.strip())

    def draw(batch: int) -> list[Sample]:
        params = [
            SamplingParams(
                temperature=settings["temperature"],
                top_p=settings["top_p"],
                max_tokens=settings["max_tokens"],
                seed=request_seed(seed, batch * size + number),
                **end,
            )
            for number in range(size)
        ]
        outputs = engine.generate([prompt] * size, params, use_tqdm=False)
        print(f"magpie: batch {batch}, {size} samples", flush=True)
        return [_sample(output.outputs[0]) for output in outputs]

    return draw


def remembered(draw: Callable[[int], list[Sample]], folder: Path) -> Callable[[int], list[Sample]]:
    """``draw`` that records every batch in ``folder`` and asks for none that is recorded there.

    What is drawn is kept, not what was selected: selecting again is quick and needs no state of its own.
    """

    def recall(batch: int) -> list[Sample]:
        path = folder / f"magpie-{batch:05d}.json"
        if (recorded := read_record(path)) is not None:
            return [Sample(text, tuple(token_ids), finished) for text, token_ids, finished in recorded]
        drawn = draw(batch)
        write_record(path, [list(sample) for sample in drawn])
        return drawn

    return recall


def _end_of_turn(tokenizer: Any, after: str) -> dict[str, Any]:
    """What stops a user's turn: its special token, or its text where a template ends turns in words."""
    first = tokenizer.encode(after, add_special_tokens=False)[0]
    special = first in tokenizer.all_special_ids or first in tokenizer.added_tokens_decoder
    return {"stop_token_ids": [first]} if special else {"stop": [after]}


def _sample(completion: Any) -> Sample:
    return Sample(completion.text.strip(), tuple(completion.token_ids), completion.finish_reason == "stop")


def _drawn(draw: Callable[[int], list[Sample]], limit: int) -> Iterator[Sample]:
    """The samples of batch after batch, until ``limit`` were drawn or more."""
    drawn = 0
    for number in count_from(0):
        if drawn >= limit:
            return
        batch = draw(number)
        drawn += len(batch)
        yield from batch
