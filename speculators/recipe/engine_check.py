"""Ask vLLM's own parser about ``engine.args``: ``python -m speculators.recipe.engine_check``.

vLLM's arguments change with every release, so only the installed one can say which exist.  Run as
a process of its own: importing vLLM takes seconds, prints logs and may fail.

Reads the arguments as one JSON object on stdin, or in the file that is named.  The last line on stdout is
one JSON object:
``{"vllm": version or null, "problems": [{"key", "about", "message", "hint"}]}``; null means not installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from speculators.recipe.engine_args import argument
from speculators.recipe.suggestions import did_you_mean

#: Where releases of vLLM keep ``make_arg_parser``, newest first.
PARSER_MODULES = (
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
#: ... and their ``FlexibleArgumentParser``.
PARSER_CLASS_MODULES = ("vllm.utils.argparse_utils", "vllm.utils")


class _RefusalError(Exception):
    """What the parser would have printed before it exits."""


def main() -> int:
    text = Path(sys.argv[1]).read_text(encoding="utf-8") if sys.argv[1:] else sys.stdin.read()
    args = json.loads(text)
    answer: dict[str, Any] = {"vllm": None, "problems": []}
    if importlib.util.find_spec("vllm"):
        # vLLM logs to stdout, which carries our answer.
        with contextlib.redirect_stdout(sys.stderr):
            parser = _server_parser()
            answer["vllm"] = importlib.import_module("vllm").__version__
            answer["problems"] = [problem._asdict() for problem in find_problems(args, parser)]
    print(json.dumps(answer))
    return 0


class Problem(NamedTuple):
    """What is wrong with one argument; ``about`` says whether with its name or its value."""

    key: str
    about: Literal["key", "value"]
    message: str
    hint: str = ""


def find_problems(args: dict[str, Any], parser: Any) -> Iterator[Problem]:
    """What ``parser`` has against each argument, tried one by one so that every error is found.

    ``parser`` is an argparse parser that raises ``_RefusalError`` where it would exit.
    """
    flags = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    names = [flag[2:].replace("-", "_") for flag in flags]
    for name, value in args.items():
        words = argument(name, value)
        if name not in names:  # argparse itself would accept any unique beginning of a name
            yield Problem(name, "key", f"vLLM has no argument '{name}'", did_you_mean(name, names))
        elif value is False and words[0] not in flags:
            yield Problem(name, "value", f"'{name}' can only be switched on", "leave it out")
        elif refusal := _refusal(parser, words):
            yield Problem(name, "value", refusal)


def _refusal(parser: Any, words: list[str]) -> str:
    try:
        parser.parse_args(words)
    except (_RefusalError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def _server_parser() -> Any:
    base = _first_import(PARSER_CLASS_MODULES).FlexibleArgumentParser

    # The base is known only once vLLM is imported.
    class RaisingParser(base):  # type: ignore[misc, valid-type]
        def error(self, message: str) -> None:
            raise _RefusalError(message)

    return _first_import(PARSER_MODULES).make_arg_parser(RaisingParser())


def _first_import(names: tuple[str, ...]) -> Any:
    for name in names[:-1]:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    return importlib.import_module(names[-1])


if __name__ == "__main__":
    sys.exit(main())
