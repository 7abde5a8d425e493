"""The text that a probe needs: what the verifier says, greedily, and its states at every layer.

By transformers on the CPU in float32, because that is the meaning of a layer's number that engines are
measured against.  A run that was benchmarked has its text already: what its plain arm answered.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.benchmark.rounds import PLAIN, Launch
from speculators.benchmark.summary import summarise
from speculators.checkpoint.weights_file import read_header
from speculators.datagen.probe import reference_model, states_of
from speculators.datagen.shards import Document
from speculators.documents import read_json, read_jsonl
from speculators.errors import MachineError, RecipeError
from speculators.inspection.probe import Texts
from speculators.quantities import size
from speculators.stages.benchmark_round import TOKENS_NAME
from speculators.stages.documents import OUTPUT_NAME

BENCHMARK = Path("bench") / OUTPUT_NAME
#: Where a run keeps the tokens of its plain arm.
TOKENS = BENCHMARK.parent / Launch(1, PLAIN).folder / "client" / TOKENS_NAME

NEW_TOKENS = 48
FLOAT32 = 4  # bytes
MOST_DOCUMENTS = 24  # of a run: enough to tell a neighbour, and few enough for a processor

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Name three causes of the First World War and explain one of them.",
    "A train travels 120 km in 90 minutes. What is its average speed in km/h? Show the steps.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "What is the difference between TCP and UDP?",
    "Give me a recipe for a simple vegetable soup.",
    "Translate into French: The library opens at nine, but the reading room only at ten.",
)


def answered(verifier_dir: Path) -> Texts:
    """The verifier's answers to ``PROMPTS``, or to random tokens where it has no tokenizer.

    Raises:
        MachineError: the verifier does not fit into memory in float32.
    """
    require_memory(verifier_dir)
    model = reference_model(verifier_dir)
    prompts = _prompt_ids(verifier_dir, int(model.config.get_text_config().vocab_size))
    documents = []
    for number, ids in enumerate(prompts):
        with torch.inference_mode():
            tokens = model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0
            )[0]  # [T]
        documents.append(_document(str(number), tokens, len(ids)))
    return _with_states(model, documents)


def of_run(run: Path, verifier_dir: Path) -> Texts:
    """What the plain arm of a run's first round answered, with the verifier's states on it.

    Raises:
        RecipeError: the run measured no plain arm.
        MachineError: the verifier does not fit into memory in float32.
    """
    if not (run / TOKENS).is_file():
        raise RecipeError(
            f"{run}: no {TOKENS}: no run, or one that was not benchmarked",
            hint="name the folder of a finished run, such as runs/NAME/latest",
            rule="no-run",
        )
    require_memory(verifier_dir)
    documents = [
        _document(row["id"], torch.tensor([*row["prompt_token_ids"], *row["output_token_ids"]]),
                  len(row["prompt_token_ids"]))
        for row in read_jsonl(run / TOKENS)
        if row["output_token_ids"]
    ]  # fmt: skip
    return _with_states(reference_model(verifier_dir), documents[:MOST_DOCUMENTS])


class Served(NamedTuple):
    """Acceptance figures of a run's draft, None where they were not counted; ``tokens``: of each draft."""

    figures: dict[str, Any] | None
    tokens: int


def served_by(run: Path) -> Served:
    """How the run's draft was served.

    Raises:
        RecipeError: the run has no benchmark.
    """
    if not (run / BENCHMARK).is_file():
        raise RecipeError(
            f"{run}: no {BENCHMARK}: it was not benchmarked",
            hint="name the folder of a finished run, such as runs/NAME/latest",
            rule="no-run",
        )
    benchmark = read_json(run / BENCHMARK)["result"]
    return Served(summarise(benchmark)["acceptance"]["served"], benchmark["speculation"]["tokens"])


def require_memory(verifier_dir: Path) -> None:
    """Refuse a verifier whose float32 weights are more than this machine's memory.

    Raises:
        MachineError: it is.
    """
    pieces = [piece for path in verifier_dir.glob("*.safetensors") for piece in read_header(path)[0].values()]
    needed = FLOAT32 * sum(math.prod(piece.shape) for piece in pieces)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise MachineError(
            f"{verifier_dir}: the probe runs the verifier in float32, about {size(needed)}; this machine has "
            f"{size(there)}",
            hint="run it where there is more memory; a run's report makes the same probe through its engine",
            rule="memory",
        )


def _document(name: str, tokens: torch.Tensor, prompt_tokens: int) -> Document:
    return Document(name, name, "probe", False, prompt_tokens, tokens, torch.empty(0))


def _with_states(model: Any, documents: Sequence[Document]) -> Texts:
    states = [reference.layers.transpose(0, 1) for reference in states_of(model, documents)]  # [T, N + 1, H]
    whole = [one._replace(hidden_states=layers) for one, layers in zip(documents, states)]
    return Texts(whole, tuple(range(states[0].shape[1])))


def _prompt_ids(verifier_dir: Path, vocab_size: int) -> Iterator[list[int]]:
    """The prompts' token ids, through the chat template where there is one."""
    from transformers import AutoTokenizer

    if not (verifier_dir / "tokenizer.json").is_file() and not (verifier_dir / "tokenizer.model").is_file():
        generator = torch.Generator().manual_seed(0)
        for number in range(len(PROMPTS)):
            yield torch.randint(vocab_size, (8 + number,), generator=generator).tolist()
        return
    tokenizer: Any = AutoTokenizer.from_pretrained(verifier_dir)
    for prompt in PROMPTS:
        if tokenizer.chat_template:
            message = [{"role": "user", "content": prompt}]
            rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            yield list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
        else:
            yield list(tokenizer(prompt)["input_ids"])
