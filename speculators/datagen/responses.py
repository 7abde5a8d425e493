"""Answers to the prompts: written by the verifier, or kept from the data, token for token.

A draft learns to predict this verifier, so its own greedy words are the best data, and the ids that
the engine read and wrote are the truth: the supervised span is exactly what was generated.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.datagen.chat import as_served, template_arguments
from speculators.datagen.context import CAPTURE_POSITIONS
from speculators.datagen.loops import is_looping
from speculators.datagen.prompts import question
from speculators.datagen.rows import Message
from speculators.datagen.seeds import request_seed
from speculators.documents import canonical_json
from speculators.errors import StageError

if TYPE_CHECKING:
    from vllm import LLM

__all__ = [
    "Answer",
    "Batch",
    "Chunk",
    "Generation",
    "chunks",
    "drop_reason",
    "generate",
    "keep",
    "kept_answer",
    "output_row",
]


#: Rows of each generation call whose prompt ids are compared with the chat template's.
COMPARED_ROWS = 50


class Answer(NamedTuple):
    """The ids of one conversation; ``output_token_ids`` ends with the end-of-turn token if there is one."""

    prompt_token_ids: list[int]
    output_token_ids: list[int]
    text: str
    finish_reason: str


class Chunk(NamedTuple):
    """The rows of one shard by their number in the data, which decides their seed and thinking mode."""

    shard: int
    rows: dict[int, dict[str, Any]]


class Batch(NamedTuple):
    """A shard's rows with their answers, or the reason why there is none, and how long that took."""

    shard: int
    rows: list[dict[str, Any]]
    answers: list[Answer | str]
    seconds: float


class Generation(NamedTuple):
    """How answers are generated.  ``modes``: values of the thinking switch, alternating by row."""

    verifier: Mapping[str, Any]
    modes: tuple[bool, ...]
    stop_token_ids: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int


def chunks(rows: Iterable[dict[str, Any]], size: int, without: Container[int] = ()) -> Iterator[Chunk]:
    """``size`` rows for each shard, in order; the shards ``without`` are left out."""
    numbered = enumerate(rows)
    for shard in count():
        chunk = dict(islice(numbered, size))
        if not chunk:
            return
        if shard not in without:
            yield Chunk(shard, chunk)


def generate(engine: LLM, wanted: Iterable[Chunk], how: Generation) -> Iterator[Batch]:
    """The chunks answered by the verifier, one engine call each."""
    for chunk in wanted:
        started = time.monotonic()
        answers = _answers(engine, chunk.rows, how)
        yield Batch(
            chunk.shard,
            list(chunk.rows.values()),
            [answers.get(number, "too_long") for number in chunk.rows],
            time.monotonic() - started,
        )


def _answers(engine: LLM, rows: Mapping[int, dict[str, Any]], how: Generation) -> dict[int, Answer]:
    """Answers by row number; rows whose prompt leaves no room in the context have none."""
    tokenizer: Any = engine.get_tokenizer()
    context = engine.model_config.max_model_len - CAPTURE_POSITIONS
    asked: list[int] = []
    rendered: dict[int, list[int]] = {}
    for turn, thinking in enumerate(how.modes):
        arguments = template_arguments(how.verifier, str(tokenizer.chat_template), thinking)
        questions = {
            number: as_served(question(row["messages"]))
            for number, row in rows.items()
            if number % len(how.modes) == turn
        }
        prompts = {
            number: render_ids(
                tokenizer, asked_for, arguments, tools=rows[number].get("tools"), generation_prompt=True
            )
            for number, asked_for in questions.items()
        }
        rendered |= prompts
        fitting = [number for number, prompt in prompts.items() if len(prompt) < context]
        for tools, numbers in _by_tools(rows, fitting):
            engine.enqueue_chat(
                [questions[number] for number in numbers],
                [_params(how, number, context - len(prompts[number])) for number in numbers],
                use_tqdm=False,
                tools=tools,
                chat_template_kwargs=arguments,
            )
            asked += numbers
    # An engine in this process takes no step before this call: the same batch every time.
    outputs = engine.wait_for_completion(use_tqdm=False) if asked else []
    answers = {number: _answer(output) for number, output in zip(asked, outputs, strict=True)}
    compare_rendering(rendered, answers)
    return answers


def _by_tools(
    rows: Mapping[int, dict[str, Any]], numbers: Iterable[int]
) -> Iterator[tuple[list[dict[str, Any]] | None, list[int]]]:
    """The rows in groups that were offered the same tools: an engine call takes one list of them."""
    groups: dict[str, list[int]] = {}
    for number in numbers:
        groups.setdefault(canonical_json(rows[number].get("tools")), []).append(number)
    for group in groups.values():
        yield rows[group[0]].get("tools"), group


def compare_rendering(rendered: Mapping[int, list[int]], answers: Mapping[int, Answer]) -> None:
    """Compare the first rows' prompts as the engine's chat rendered them with the tokenizer's own template.

    Kept answers are rendered by the template alone, and a draft that was trained on other ids than the chat
    endpoint serves is slow without any error.

    Raises:
        StageError: naming the first row that differs and where.
    """
    for number in sorted(answers)[:COMPARED_ROWS]:
        ours, theirs = rendered[number], answers[number].prompt_token_ids
        if ours != theirs:
            at = next(
                (n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs))
            )
            raise StageError(
                f"row {number}: the engine's chat gives {len(theirs)} prompt ids and the chat template "
                f"{len(ours)}, unlike from position {at} on",
                hint="look at verifier.chat_template_kwargs and the model's chat template: what is trained "
                "on must be what is served",
                rule="rendering",
            )


def keep(tokenizer: Any, wanted: Iterable[Chunk], how: Generation, context: int) -> Iterator[Batch]:
    """The chunks with each row's last assistant message as its answer; no engine is needed."""
    for chunk in wanted:
        started = time.monotonic()
        answers = []
        for number, row in chunk.rows.items():
            thinking = how.modes[number % len(how.modes)]
            arguments = template_arguments(how.verifier, str(tokenizer.chat_template), thinking)
            answers.append(
                kept_answer(
                    tokenizer,
                    row["messages"],
                    arguments,
                    how.stop_token_ids,
                    context,
                    tools=row.get("tools"),
                )
            )
        yield Batch(chunk.shard, list(chunk.rows.values()), answers, time.monotonic() - started)


def kept_answer(
    tokenizer: Any,
    messages: list[Message],
    arguments: Mapping[str, Any],
    stop: Sequence[int],
    context: int,
    tools: list[dict[str, Any]] | None = None,
) -> Answer | str:
    """The last assistant message as the answer, or the reason why it cannot be one.

    The prompt's ids must be a prefix of the whole conversation's: a template that rewrites what came
    before (dropping earlier thoughts, say) shows ids that no served prompt would have.
    """
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        return "no_response"
    prompt = render_ids(tokenizer, messages[:-1], arguments, tools=tools, generation_prompt=True)
    whole = render_ids(tokenizer, messages, arguments, tools=tools, generation_prompt=False)
    if whole[: len(prompt)] != prompt:
        return "unstable_template"
    output = whole[len(prompt) :]
    ends = [position for position, token in enumerate(output) if token in stop]
    # What a template prints after the end of a turn, the model never writes.
    output = output[: ends[0] + 1] if ends else output
    if len(prompt) + len(output) > context - CAPTURE_POSITIONS:
        return "too_long"
    last = messages[-1]
    return Answer(prompt, output, last["content"] or canonical_json(last.get("tool_calls")), "stop")


def render_ids(
    tokenizer: Any,
    messages: list[Message],
    arguments: Mapping[str, Any],
    *,
    tools: list[dict[str, Any]] | None = None,
    generation_prompt: bool,
) -> list[int]:
    """Token ids of a conversation by the tokenizer's own chat template."""
    offered = {"tools": tools} if tools else {}
    ids: list[int] = tokenizer.apply_chat_template(
        as_served(messages),
        tokenize=True,
        return_dict=False,
        add_generation_prompt=generation_prompt,
        **offered,
        **arguments,
    )
    return ids


def drop_reason(answer: Answer, *, drop_looping: bool, stop: Sequence[int]) -> str | None:
    """Why an answered row is left out, or None."""
    if not answer.text.strip() or all(token in stop for token in answer.output_token_ids):
        return "empty"
    return "looping" if drop_looping and is_looping(answer.output_token_ids) else None


def output_row(row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """The row that the responses stage writes."""
    return {
        **{key: row[key] for key in ("id", "source", "group", "split")},
        **answer._asdict(),
        "looping": is_looping(answer.output_token_ids),
    }


def _params(how: Generation, number: int, room: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=how.temperature,
        max_tokens=min(how.max_tokens, room),
        stop_token_ids=list(how.stop_token_ids),
        seed=request_seed(how.seed, number) if how.temperature > 0 else None,
    )


def _answer(output: Any) -> Answer:
    completion = output.outputs[0]
    return Answer(
        list(output.prompt_token_ids), list(completion.token_ids), completion.text, completion.finish_reason
    )
