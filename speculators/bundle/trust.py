"""What in a stranger's recipe can run code, read this machine's files or learn its secrets.

A recipe is settings, but some settings name code: a variable that the loader obeys, a class for the engine
to import, a model's own Python.  Somebody who repeats a run has not read them, so they are named first.
Tables of what is harmless, not of what is known to be bad: an engine grows new settings with every release.

Pure: a recipe's data in, findings out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from speculators.errors import RecipeError
from speculators.recipe.engine_rules import ORDINARY_ARGS
from speculators.recipe.hub_cache import HubFile, hub_file
from speculators.recipe.prompt_source import BENCHMARK_FILES, sources_of
from speculators.recipe.source_rules import COMMIT, REPOSITORY_AT
from speculators.recipe.view import BROUGHT_MODELS, PREPARED, named

#: Variables by which the dynamic loader and Python run what they name: never from a bundle.
FORBIDDEN = re.compile(r"(LD_|DYLD_|PYTHON).*", re.IGNORECASE)
HARMLESS_VARIABLES = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_CPU_NUM_OF_RESERVED_CPU",
        "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_ENGINE_ITERATION_TIMEOUT_S",
        "VLLM_LOGGING_LEVEL",
        "VLLM_WORKER_MULTIPROC_METHOD",
    }
)
#: A word or number: no path, no module, no address, no JSON.
PLAIN = re.compile(r"-?[A-Za-z0-9_]*(\.[0-9]+)?[A-Za-z]?")


class Concern(NamedTuple):
    """A value of a recipe that its reader should know of.  ``forbidden``: however much it is trusted."""

    path: str
    what: str
    forbidden: bool = False


def concerns(recipe: Mapping[str, Any]) -> list[Concern]:
    """Everything in ``recipe`` that can run code, read files from outside its bundle or reveal secrets."""
    return [found for look in LOOKS for found in look(recipe)]


def _variables(recipe: Mapping[str, Any]) -> Iterator[Concern]:
    for name, value in recipe.get("engine", {}).get("env", {}).items():
        if FORBIDDEN.fullmatch(name):
            yield Concern(f"engine.env.{name}", f"{value!r}: makes programs load code", forbidden=True)
        elif name not in HARMLESS_VARIABLES or not _is_plain(value, more=",|-"):
            yield Concern(f"engine.env.{name}", f"{value!r}: a variable of the engine, not known as harmless")


def _arguments(recipe: Mapping[str, Any]) -> Iterator[Concern]:
    for name, value in recipe.get("engine", {}).get("args", {}).items():
        if name not in ORDINARY_ARGS or not _is_plain(value):
            yield Concern(f"engine.args.{name}", f"{value!r}: an argument not known as harmless")


def _is_plain(value: Any, more: str = "") -> bool:
    if isinstance(value, str):
        return bool(PLAIN.fullmatch(re.sub(f"[{re.escape(more)}]", "", value) if more else value))
    if isinstance(value, Mapping):  # counts by name, as of pictures in a prompt
        return all(isinstance(one, int) for one in value.values())
    return value is None or isinstance(value, (bool, int, float))


def _remote_code(recipe: Mapping[str, Any]) -> Iterator[Concern]:
    if recipe["verifier"].get("trust_remote_code"):
        yield Concern("verifier.trust_remote_code", "true: runs the Python code of the model's repository")


def _secrets(recipe: Mapping[str, Any]) -> Iterator[Concern]:
    if names := recipe.get("container", {}).get("secrets", []):
        yield Concern("container.secrets", f"{', '.join(names)}: shown to the stages")


def _models(recipe: Mapping[str, Any]) -> Iterator[Concern]:
    """A bundle holds neither models nor hidden states, so a folder is always one of this machine."""
    if path := recipe["verifier"].get("path"):
        yield Concern("verifier.path", f"{path!r}: a folder outside of the bundle")
    if data := named(recipe, PREPARED):
        yield Concern(PREPARED, f"{data!r}: a folder outside of the bundle")
    for name in BROUGHT_MODELS:
        draft = named(recipe, name)
        if draft and not (REPOSITORY_AT.fullmatch(draft) and COMMIT.fullmatch(draft.rpartition("@")[2])):
            yield Concern(
                name, f"{draft!r}: no commit of a repository, but a name that this machine resolves"
            )


def _prompts(recipe: Mapping[str, Any]) -> Iterator[Concern]:
    training = recipe.get("datagen", {}).get("prompts", {}).get("files", [])
    asked = [source.file for source in sources_of(recipe["benchmark"]["prompts"])]
    trained = [hub_file(name) or name for name in training]
    for path, files in (("datagen.prompts.files", trained), (BENCHMARK_FILES, asked)):
        for file in files:
            if isinstance(file, HubFile) and not COMMIT.fullmatch(file.revision):
                name = f"{file.repository}@{file.revision}/{file.path}"
                yield Concern(
                    path, f"{name!r}: no commit of a dataset, but a name that this machine resolves"
                )
            if isinstance(file, str) and os.path.isabs(file):
                yield Concern(path, f"{file!r}: a file outside of the bundle")


LOOKS = (_variables, _arguments, _remote_code, _secrets, _models, _prompts)


def require_trust(
    recipe: Mapping[str, Any],
    overrides: Sequence[str],
    source: str,
    *,
    needs: Sequence[str] = (),
    trusted: bool = False,
) -> None:
    """Stop before a stranger's recipe does what nobody agreed to.

    ``recipe``: with the ``overrides`` in it.  What these set is the caller's own wish, and ``needs`` are the
    paths that he has to set before anything runs.

    Raises:
        RecipeError: naming every such value by its recipe path.
    """
    own = [override.partition("=")[0].strip() for override in overrides]
    found = [one for one in concerns(recipe) if not _is_within(one.path, own)]
    if forbidden := [one for one in found if one.forbidden]:
        raise RecipeError(
            f"{source}: a bundle must not set these\n" + _lines(forbidden),
            hint="if you know what it is for, set it yourself: "
            + " ".join(f"--set {one.path}=..." for one in forbidden),
            rule="forbidden-recipe",
        )
    found = [one for one in found if not _is_within(one.path, needs)]
    if found and not trusted:
        raise RecipeError(
            f"{source}: its recipe can run code, read files or see secrets on this machine\n{_lines(found)}",
            hint="look at resolved.yaml in it (it is a tar), and if you trust who made it give "
            "--trust-recipe; nothing was unpacked or run",
            rule="untrusted-recipe",
        )


def _is_within(path: str, blocks: Sequence[str]) -> bool:
    return any(path == block or path.startswith(f"{block}.") for block in blocks)


def _lines(found: Sequence[Concern]) -> str:
    return "\n".join(f"  {one.path}: {one.what}" for one in found)
