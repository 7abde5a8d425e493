"""What the command line that serves a sound draft can still spoil: method, tokens, graphs, context.

Only the flags that a draft's use depends on are read; whether the rest is valid, vLLM itself says at once.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.check import Check
from speculators.checkpoint.config import stored_format
from speculators.checkpoint.format import Format
from speculators.errors import RecipeError
from speculators.serving.graphs import graph_reach, step_tokens, without_graphs

#: Other names of flags (vLLM's engine/arg_utils.py) -> dotted Python names.
ALIASES = {
    "sc": "speculative_config",
    "cc": "compilation_config",
    "spec_method": "speculative_config.method",
    "spec_model": "speculative_config.model",
    "spec_tokens": "speculative_config.num_speculative_tokens",
    "O": "optimization_level",
}
BLOCKS = ("speculative_config", "compilation_config")
LISTS = ("cudagraph_capture_sizes",)
#: What is reckoned with, whole numbers from 1 on; of the rest vLLM itself says what is wrong.
NUMBERS = (
    "max_num_seqs", "max_num_batched_tokens", "max_cudagraph_capture_size", "cudagraph_capture_sizes",
    "num_speculative_tokens",
)  # fmt: skip
#: Which vLLM also takes as 8k (8000) or 8K (8192) (utils/argparse_utils.py).
SHORTENED = ("max_num_batched_tokens", "max_model_len")
SUFFIXES = {
    "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4,
}  # fmt: skip


class ServeCommand(NamedTuple):
    """``model``: what is served, empty where the command does not say; ``args``: by Python names."""

    model: str
    args: dict[str, Any]

    @property
    def speculation(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.args.get("speculative_config", {})
        return found

    def naming(self, mended: Path, folder: Path) -> ServeCommand:
        """The same command with ``mended`` wherever it names the draft in ``folder``."""
        args = dict(self.args)
        if _same(str(self.speculation.get("model", "")), folder):
            args["speculative_config"] = {**self.speculation, "model": str(mended)}
        return ServeCommand(str(mended) if _same(self.model, folder) else self.model, args)


def read_command(text: str) -> ServeCommand:
    """The words of ``vllm serve MODEL ...``, or of ``python -m vllm.entrypoints.openai.api_server``.

    Raises:
        RecipeError: it is neither, a quote is open, a block is no JSON object, or a number that is reckoned
            with is none.
    """
    hint = "give the whole command in quotes, as in --serve 'vllm serve MODEL --max-num-seqs 64'"
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise RecipeError(f"--serve: {str(error).lower()}", hint=hint, rule="serve-command") from None
    start = next((n for n, word in enumerate(words) if re.search(r"(^|\.)(serve|api_server)$", word)), None)
    if start is None:
        raise RecipeError(f"--serve {text!r}: no 'serve' in it", hint=hint, rule="serve-command")
    words = words[start + 1 :]
    model = words.pop(0) if words and not words[0].startswith("-") else ""
    args: dict[str, Any] = {}
    for name, values in _flags(words):
        _put(args, name, values)
    for block in (args, *(args[name] for name in BLOCKS if name in args)):
        _require_numbers(block)
    return ServeCommand(model or str(args.get("model", "")), args)


def _flags(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag's dotted Python name and its words."""
    name, values = "", []
    for word in [*words, "-"]:
        if not word.startswith("-"):
            values.append(word)
            continue
        if name:
            yield name, values
        word = re.sub(r"^-O(?=[^=])", "-O=", word)  # -O0
        key, found, value = word.lstrip("-").partition("=")
        first, *rest = key.replace("-", "_").split(".")
        name, values = ".".join([ALIASES.get(first, first), *rest]), [value] if found else []


def _put(args: dict[str, Any], name: str, values: list[str]) -> None:
    *parents, last = name.split(".")
    if last in LISTS:
        value: Any = [_value(word) for word in values]
    else:
        value = _value(values[-1]) if values else True
        if last in SHORTENED and (short := re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", str(value))):
            value = int(float(short[1]) * SUFFIXES[short[2]])
    target: Any = args
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else target
    if not isinstance(target, dict) or (name in BLOCKS and not isinstance(value, dict)):
        whole = ".".join(parents) or name
        raise _unusable(whole, "no JSON object", "a JSON object, or its keys as --NAME.KEY VALUE")
    if isinstance(value, dict) and isinstance(target.get(last), dict):
        target[last].update(value)
    else:
        target[last] = value


def _require_numbers(block: Mapping[str, Any]) -> None:
    """Refuse values of ``NUMBERS`` that are none."""
    for name in NUMBERS:
        said = block.get(name, 1)
        numbers = said if isinstance(said, list) else [said]
        if not numbers or any(type(one) is not int or one < 1 for one in numbers):
            raise _unusable(name, f"{said!r}", "a whole number from 1 on")


def _unusable(name: str, said: str, wanted: str) -> RecipeError:
    flag = name.replace("_", "-")
    return RecipeError(f"--serve: --{flag} is {said}", hint=f"give {wanted}", rule="serve-command")


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def command_checks(command: ServeCommand, folder: Path, document: Mapping[str, Any]) -> Iterator[Check]:
    """What of ``command`` is wrong for the draft in ``folder`` with config ``document``."""
    asked = command.speculation
    itself = _same(command.model, folder)
    draft = str(asked.get("model", "")) or (command.model if itself else "")
    yield Check(
        "engine is given a draft", bool(draft), draft or "neither the model served nor a flag names one"
    )
    if not draft:
        return
    elsewhere = os.path.isdir(draft) and not _same(draft, folder)
    yield Check("engine is given this draft", not elsewhere, draft, "warning")
    known = stored_format(document)
    if known is not None and not itself:
        yield _method(known, asked)
    methods = (document.get("speculators_config") or {}).get("proposal_methods") or [{}]
    trained = methods[0].get("speculative_tokens")
    tokens = asked.get("num_speculative_tokens", trained)
    if isinstance(trained, int) and isinstance(tokens, int) and tokens > 0:
        severity = "error" if known is not None and known.at_once else "warning"
        yield Check(
            "tokens as trained", tokens <= trained, f"{tokens} asked for, trained for {trained}", severity
        )
        yield _graphs(command.args, tokens)
    by = without_graphs(command.args)
    yield Check("graphs are captured", by is None, by or "nothing turns them off", "warning")
    yield from _context(command.args, document)


def _same(name: str, folder: Path) -> bool:
    return bool(name) and os.path.isdir(name) and os.path.samefile(name, folder)


def _method(known: Format, asked: Mapping[str, Any]) -> Check:
    """vLLM's method for such drafts; one that is left out vLLM finds itself."""
    wanted = known.serve
    wrong = {
        name: asked.get(name)
        for name, value in wanted.items()
        if asked.get(name, value if name == "method" else None) != value
    }
    said = ", ".join(f"{name} is {value!r}, not {wanted[name]!r}" for name, value in wrong.items())
    return Check("method as the draft's", not wrong, said or f"{known.stored_as}: {dict(wanted)}")


def _graphs(args: Mapping[str, Any], tokens: int) -> Check:
    """Whether the widest step that the scheduler allows is a captured one."""
    reach, most = graph_reach(args), args.get("max_num_seqs")
    name = "graphs reach the widest step"
    if reach is None:
        return Check(name, True, "none are captured")
    said = f"{reach.said}: {reach.least // (tokens + 1)} requests of {tokens} + 1 tokens a step"
    if most is None:
        return Check(name, False, f"{said}; --max-num-seqs is not given", "warning")
    held = reach.holds(step_tokens(args, most * (tokens + 1)))
    severity = "warning" if held is None else "error"
    return Check(name, bool(held), f"{said}; --max-num-seqs is {most}", severity)


def _context(args: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Check]:
    layer = document.get("transformer_layer_config") or document
    reach, asked = layer.get("max_position_embeddings"), args.get("max_model_len")
    if isinstance(reach, int) and isinstance(asked, int):
        yield Check("draft reaches the context", asked <= reach, f"{asked} served, {reach} known", "warning")
