"""Asks the vLLM of this process every question: ``python -m tests.contracts.inside SCRATCH``.

A process of its own for each version: one interpreter can import only one vLLM.  The last line on stdout is
one JSON object, question -> [facts, missing].
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.contracts.answers import Answer
from tests.contracts.questions import questions

LONGEST = 300


def main() -> int:
    scratch = Path(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):  # vLLM logs to stdout, which carries our answer
        _inspect_models_here()
        _without_amx()
        rows = questions(scratch)
        answers = {row.name: _asked(row.ask, scratch) for row in rows}
    print(json.dumps(answers))
    return 0


def _asked(ask: Any, scratch: Path) -> Answer:
    try:
        return _without_paths(ask(), scratch)
    # Whatever it is, it is the answer: we rely on something that fails.
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return Answer({}, (_one_line(f"{type(error).__name__}: {error}", scratch),))


def _without_paths(answer: Answer, scratch: Path) -> Answer:
    facts = json.loads(json.dumps(answer.facts, default=str).replace(str(scratch), "..."))
    return Answer(facts, tuple(_one_line(text, scratch) for text in answer.missing))


def _one_line(text: str, scratch: Path) -> str:
    text = " ".join(text.replace(str(scratch), "...").split())
    text = re.sub(r"input_value=.*?, input_type", "input_type", text)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _inspect_models_here() -> None:
    """vLLM looks at each model's class in a process of its own, to keep CUDA out of this one.

    There is no CUDA here, and such a process imports for a quarter of a minute.
    """
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda function: function()


def _without_amx() -> None:
    """Ask for a processor without AMX whatever this one has.

    Where there is AMX vLLM's CPU platform serves MLA by another backend, with other block and batch sizes.
    """
    import torch

    torch.cpu._is_amx_tile_supported = lambda: False


if __name__ == "__main__":
    sys.exit(main())
