"""The host's side of the engine check: start it, read its answer, turn it into diagnostics."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any, NamedTuple

from speculators.recipe.diagnostics import Diagnostic, diagnostic
from speculators.recipe.positions import Mark, Path, Positions

ARGS: Path = ("engine", "args")
#: Importing vLLM on a slow disk takes most of this.
TIMEOUT_SECONDS = 180


class EngineAnswer(NamedTuple):
    """``vllm`` is the version asked, empty when there was nobody to ask; then ``reason`` says why."""

    vllm: str
    problems: list[dict[str, str]]
    reason: str = ""


def ask_engine(args: dict[str, Any], python: str = sys.executable) -> EngineAnswer:
    """What the vLLM of the interpreter ``python`` says about ``args``; it is asked once about the same."""
    return _answer(json.dumps(args), python)


@cache
def _answer(args: str, python: str) -> EngineAnswer:
    command = [python, "-m", "speculators.recipe.engine_check"]
    try:
        done = subprocess.run(
            command,
            input=args,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return EngineAnswer("", [], f"vLLM's parser did not answer within {TIMEOUT_SECONDS} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return EngineAnswer("", [], f"vLLM's parser could not be loaded: {last}")
    return answer_in(done.stdout.strip().splitlines()[-1])


def answer_in(line: str) -> EngineAnswer:
    """The answer that ``engine_check`` printed."""
    answer = json.loads(line)
    if answer["vllm"] is None:
        return EngineAnswer("", [], "vLLM is not installed in this environment")
    return EngineAnswer(answer["vllm"], answer["problems"])


def engine_diagnostics(args: dict[str, Any], positions: Positions) -> list[Diagnostic]:
    """Errors at the arguments that the installed vLLM refuses, or a note that none was asked."""
    return diagnostics_of(ask_engine(args), positions)


def diagnostics_of(answer: EngineAnswer, positions: Positions) -> list[Diagnostic]:
    """The same, of an answer that was got elsewhere."""
    if not answer.vllm:
        return [not_checked(positions, answer.reason)]
    return [
        diagnostic(
            "error",
            "engine-args",
            problem["message"],
            _mark(problem, positions),
            problem["hint"],
            (f"asked the parser of vLLM {answer.vllm}",),
        )
        for problem in answer.problems
    ]


def _mark(problem: dict[str, str], positions: Positions) -> Mark:
    path = (*ARGS, problem["key"])
    return positions.key(path) if problem["about"] == "key" else positions.value(path)


def not_checked(positions: Positions, reason: str) -> Diagnostic:
    """The note that nobody looked at ``engine.args``."""
    hint = "'speculators check --engine' asks the vLLM that is installed beside it"
    return diagnostic(
        "note", "not-checked", f"not checked: engine.args ({reason})", positions.key(ARGS), hint
    )
