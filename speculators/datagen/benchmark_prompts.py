"""The prompts that all arms of a benchmark are asked: of one source or of several in turn, each read once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from speculators.datagen.prompt_sets import AS_THEY_ARE, RANDOM, SETS, Columns
from speculators.datagen.prompts import Prompt, read_prompts
from speculators.errors import RecipeError

__all__ = ["benchmark_prompts", "random_prompts"]

SEED = 0

ReadAs = str | Mapping[str, str] | None


def benchmark_prompts(
    files: Sequence[Path], read_as: Sequence[ReadAs], columns: Columns = AS_THEY_ARE
) -> list[Prompt]:
    """The prompts of all files, of several in turn, so that the first ones are of each.

    Args:
        read_as: of each file the public set that it is, or None for one of the recipe's own.
        columns: those of the recipe's own files.

    Raises:
        MachineError: one is a Parquet file, and pyarrow is not installed.
        RecipeError: a row is malformed, or is not of the set that the file should be; names file and line.
    """
    names = _names(files, read_as)
    each = [_read(*one, columns) for one in zip(files, read_as, names)]
    return [prompt for prompt in chain.from_iterable(zip_longest(*each)) if prompt]


def _names(files: Sequence[Path], read_as: Sequence[ReadAs]) -> Iterator[str]:
    """What each source is called: its public set, or its file's name where there are several."""
    stems: Counter[str] = Counter()
    for path, kind in zip(files, read_as):
        stems[path.stem] += 1
        own = path.stem if stems[path.stem] == 1 else f"{path.stem}.{stems[path.stem]}"
        yield str(kind) if kind else own if len(files) > 1 else ""


def _read(path: Path, kind: ReadAs, name: str, columns: Columns) -> list[Prompt]:
    row = SETS[str(kind)] if kind else None
    prompts = read_prompts([path], row.columns if row else columns, only=row.only if row else "")
    if row and not prompts:
        raise RecipeError(f"{path}: no row of {name}", hint="fetch the set's own file again", rule="prompts")
    return [_of(prompt, name) for prompt in prompts] if name else prompts


def _of(prompt: Prompt, name: str) -> Prompt:
    """The prompt as of the set ``name``, since others may number their rows alike."""
    group = name if prompt.group == prompt.id else prompt.group
    return prompt._replace(id=f"{name}/{prompt.id}", group=group, dataset=name)


def random_prompts(tokenizer: Any, tokens: int, count: int) -> list[Prompt]:
    """``count`` prompts of about ``tokens`` tokens, drawn evenly from the vocabulary: what nobody writes.

    ``tokenizer``: of transformers.  The same for one tokenizer: the seed is fixed.
    """
    draw = random.Random(SEED)
    usual = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    return [
        _alone(f"random-{number}", _text(tokenizer, draw.choices(usual, k=tokens), tokens))
        for number in range(1, count + 1)
    ]


def _text(tokenizer: Any, ids: Iterable[int], tokens: int) -> str:
    """Text of the drawn ids; cut, because bytes that are no character become more tokens than were drawn."""
    text = tokenizer.decode(list(ids)).replace("\ufffd", "")
    return str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)[:tokens]))


def _alone(name: str, text: str) -> Prompt:
    return Prompt(name, "random", RANDOM, [{"role": "user", "content": text}], dataset=RANDOM)
