"""Rules on what a benchmark asks: real prompts, and enough of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from speculators.datagen.prompt_files import UNREAD, count_rows
from speculators.datagen.prompt_sets import SETS, Columns, PromptSet
from speculators.errors import SpeculatorsError
from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.prompt_source import BENCHMARK_FILES, PackageFile, PromptSource, sources_of
from speculators.recipe.source_rules import first_rows, prompt_file
from speculators.recipe.suggestions import did_you_mean, listing
from speculators.recipe.view import View

ALLOWED = "benchmark.allow_random_prompts"
#: What may be said of random text beside its length, and why the rest of GuideLLM's settings may not.
RANDOM_SETTINGS = ("kind", "prompt_tokens")


def benchmark_prompts(view: View) -> Iterator[Diagnostic]:
    """Every file that is named can be read, as far as it is here."""
    several = isinstance(view.get(BENCHMARK_FILES), list)
    for number, source in enumerate(_sources(view)):
        item = number if several else None
        if source.file is None or isinstance(source.file, PackageFile):
            continue  # what is not installed is the machine's affair, as what was not fetched is
        found = list(prompt_file(view, BENCHMARK_FILES, source.file, item))
        for one in found:
            unknown = one.rule == "missing-file" and not os.path.splitext(str(source.file))[1]
            hint = did_you_mean(str(source.file), SETS) if unknown else ""
            yield one._replace(hint=f"{hint} {one.hint}") if hint else one
        if not found and isinstance(source.file, str):
            yield from _first_rows(view, source.file, source.set, item)


def _first_rows(view: View, file: str, kind: PromptSet | None, item: int | None) -> Iterator[Diagnostic]:
    if kind:
        yield from first_rows(view, BENCHMARK_FILES, file, item, kind.columns, kind.only)
    elif view.is_sound("benchmark.columns"):
        columns = Columns(**view.get("benchmark.columns", {}))
        yield from first_rows(view, BENCHMARK_FILES, file, item, columns)


def real_prompts(view: View) -> Iterator[Diagnostic]:
    """Random text measures no acceptance, so it has to be asked for twice."""
    sources = _sources(view)
    for source in sources:
        if source.random_text is None:
            continue
        if not view.get(ALLOWED):
            message = "benchmark.prompts is random text, on which acceptance says nothing of real requests"
            hint = (
                f"name a file or a public set ({listing(_families(), 'or')}); to measure speed alone, "
                f"set {ALLOWED} to true, and the report will say so"
            )
            yield view.problem("error", "random-prompts", BENCHMARK_FILES, message, hint)
        elif len(sources) > 1:
            message = "random text stands beside real prompts, and every figure would be of both"
            hint = "measure it in a recipe of its own"
            yield view.problem("error", "random-prompts", BENCHMARK_FILES, message, hint)
        else:
            yield from _random_settings(view, source)


def _random_settings(view: View, source: PromptSource) -> Iterator[Diagnostic]:
    assert source.random_text is not None
    tokens = source.random_text.get("prompt_tokens", "")
    if not tokens.isdecimal() or int(tokens) < 1:
        message = f"random text of '{tokens}' tokens: must be a whole number of at least 1"
        yield view.problem("error", "random-prompts", BENCHMARK_FILES, message, "write prompt_tokens=256")
    if extra := [name for name in source.random_text if name not in RANDOM_SETTINGS]:
        message = f"random text has only prompt_tokens here, not {listing(extra)}"
        hint = "all have one length; benchmark.max_tokens and benchmark.requests say the rest"
        yield view.problem("error", "random-prompts", BENCHMARK_FILES, message, hint)


def enough_requests(view: View) -> Iterator[Diagnostic]:
    """The files have as many rows as are to be asked, where all of them are here to be counted."""
    requests, rows, names = view.get("benchmark.requests"), 0, []
    for source in _sources(view):
        path = source.located(view.folder, os.environ)
        if path is None or path.suffix in UNREAD or (source.set and source.set.only):
            return
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            return
        try:
            count = count_rows(path)
        except SpeculatorsError:
            return  # that it cannot be read is said where it is
        if not count:
            return  # and so is that it is empty
        rows += count
        names.append(path.name)
    if requests > rows:
        have = "have" if len(names) > 1 else "has"
        message = f"benchmark.requests is {requests}, but {listing(names, 'and')} {have} {rows} rows"
        hint = f"lower it to at most {rows}"
        yield view.problem("error", "too-few-prompts", "benchmark.requests", message, hint)


def _sources(view: View) -> list[PromptSource]:
    return sources_of(view.get(BENCHMARK_FILES))


def _families() -> list[str]:
    """The public sets, of those in parts the first."""
    first: dict[str, str] = {}
    for name in SETS:
        first.setdefault(name.partition(":")[0], name)
    return list(first.values())
