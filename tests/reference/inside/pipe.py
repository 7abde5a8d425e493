"""A process that is asked over a pipe: one JSON object a line in, one out.

Two implementations in two processes can so be asked in turns, and neither imports the other.
Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Verb = Callable[..., dict[str, Any]]


def answer_all(verbs: Mapping[str, Verb]) -> NoReturn:
    """Answer requests ``{"verb": NAME, ...arguments}`` until stdin ends, then end the process.

    An answer is the verb's result, or ``{"error": text}``.  What else is printed goes to stderr:
    libraries write to stdout, and stdout carries the answers.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = verbs[request.pop("verb")](**request)
        # Whatever it is, it is the answer: the asking side decides what it means.
        except Exception as error:
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(result) + "\n")
        answers.flush()
    os._exit(0)  # an interpreter full of torch takes seconds to clear up after itself
