"""Which files of a run folder a bundle holds, and what it says of the others.

In: what repeating and judging need.  Out: logs, commands and stage inputs, which say where things lay on one
machine (a stage's key holds all that its output depends on), and weights, which are named by digest unless
they are wished.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from speculators.bundle.archive import Content
from speculators.bundle.model import canonical_model, model_files
from speculators.bundle.paths import absolute_paths, without_paths, words_for_paths
from speculators.bundle.run_files import json_of, yaml_of
from speculators.documents import file_digest, known_json, value_digest
from speculators.errors import RecipeError
from speculators.pipeline.record import RECORD_NAME
from speculators.pipeline.store import default_home
from speculators.recipe.hub_cache import hub_file
from speculators.recipe.prompt_source import BENCHMARK_FILES, sources_of
from speculators.recipe.source_rules import REPOSITORY_AT
from speculators.recipe.view import BROUGHT_MODELS, named

RESOLVED_NAME = "resolved.yaml"
LOCK_NAME = "lock.yaml"
CARD = "MODEL_CARD.md"
#: The recipe's own files lie below this, at the place that the recipe names.
FILES = "files"
UP = "up"
PROMPT_FILES = ("datagen.prompts.files", BENCHMARK_FILES)
KEPT = (
    "recipe.yaml",
    "extends-*.yaml",
    RESOLVED_NAME,
    LOCK_NAME,
    RECORD_NAME,
    "report.json",
    "report.md",
    "repeat.json",
    "stages/*/key.json",
    "stages/*/output.json",
    "stages/*/ledger.json",
    "stages/*/probe.json",
    "stages/*/metrics.jsonl",
    "stages/replay/output/replay.json",
    "bench/key.json",
    "bench/output.json",
    "bench/round-*/*/client/guidellm-*.json",
    "bench/round-*/*/client/scenario-*.json",
    "bench/round-*/*/client/output.json",
    "bench/round-*/*/client/result.json",
    "bench/round-*/*/client/*.jsonl",
)


class Contents(NamedTuple):
    """Everything that goes into a bundle but what describes the bundle itself.

    ``was``: digest in the run folder of files whose paths were replaced.  ``files``: members by the recipe
    path that names them; ``recipe_folder``: the folder below ``files/`` that these names start from.
    ``needs``: what the recipe names and the bundle lacks, with its digest where one is known.
    ``weights``: the checkpoint's files as the package stage sealed them.
    """

    members: dict[str, Content]
    was: dict[str, str]
    record: dict[str, Any]
    recipe: dict[str, Any]
    report: dict[str, Any]
    recipe_folder: str
    files: dict[str, list[str]]
    needs: dict[str, str | None]
    weights: dict[str, dict[str, Any]]


def gather(run: Path, *, with_weights: bool = False, files_from: Path | None = None) -> Contents:
    """The contents of a bundle of the finished run in folder ``run``.

    ``files_from``: the folder that the recipe's file names start from, where they lie elsewhere by now.

    Raises:
        RecipeError: no finished run, a damaged one, or a file that it used has changed since.
    """
    record = finished_record(run)
    recipe = yaml_of(run / RESOLVED_NAME)
    steps = [json_of(path) for path in sorted(run.glob("**/input.json"))]
    given = [yaml_of(path) for path in _written(run)]
    words = words_for_paths([recipe, *given], steps, run, (Path(os.path.expanduser("~")), default_home()))
    members: dict[str, Content] = {}
    was: dict[str, str] = {}
    for name in kept_files(run):
        content = (run / name).read_bytes()
        members[name] = without_paths(content, words)
        if members[name] != content:
            was[name] = file_digest(run / name)
    if (run / "model" / "README.md").is_file():
        members[CARD] = (run / "model" / "README.md").read_bytes()
    places = place_files(recipe)
    sources = prompt_sources(run, recipe, steps, files_from)
    for path, names in places.names.items():
        members |= dict(zip(names, sources[path]))
    if with_weights:
        members |= canonical_model(run)
    return Contents(
        members,
        was,
        record,
        recipe,
        json_of(run / "report.json"),
        places.folder,
        places.names,
        needs(run, recipe),
        model_files(run),
    )


def finished_record(run: Path) -> dict[str, Any]:
    """The record of a run that ended well and measured something.

    Raises:
        RecipeError: it did not, or ``run`` is no run folder.
    """
    record = known_json(run / RECORD_NAME)
    if not record:
        hint = "give the folder of a run, such as runs/NAME/latest"
        raise RecipeError(f"{run}: no {RECORD_NAME}: not a run folder", hint=hint, rule="no-run")
    if record["status"] != "ok":
        raise RecipeError(
            f"{run}: the run is '{record['status']}', not finished",
            hint="finish it first: the command that started it continues it",
            rule="run-unfinished",
        )
    if not (run / "report.json").is_file():
        raise RecipeError(
            f"{run}: a run of the stage '{record.get('only', '')}' alone: nothing was measured",
            hint="run the recipe to its end first",
            rule="run-unfinished",
        )
    return record


def _written(run: Path) -> list[Path]:
    """The recipe as its author wrote it, and what it extends."""
    return [path for path in (run / "recipe.yaml", *sorted(run.glob("extends-*.yaml"))) if path.is_file()]


def kept_files(run: Path) -> Iterator[str]:
    """Names of the run's own files that a bundle holds."""
    for folder, _, files in os.walk(run):
        for file in files:
            name = str((Path(folder) / file).relative_to(run))
            # fnmatch's * would take in a slash.
            if any(fnmatch.fnmatch(name, kept) and name.count("/") == kept.count("/") for kept in KEPT):
                yield name


class Places(NamedTuple):
    """Where the files of a recipe lie in a bundle."""

    folder: str
    names: dict[str, list[str]]


def place_files(recipe: dict[str, Any]) -> Places:
    """A place below ``files/`` for each prompt file, from where the recipe's own names find it.

    A name that climbs out of the recipe's folder is kept within the bundle by putting the recipe's folder
    deep enough.

    Raises:
        RecipeError: two files would get the same place.
    """
    named = {path: [relative(name) for name in names] for path, names in prompt_names(recipe).items()}
    climbs = [name.split("/").count("..") for names in named.values() for name in names]
    folder = "/".join([UP] * max(climbs, default=0))
    names = {
        path: [os.path.normpath(os.path.join(FILES, folder, name)) for name in given]
        for path, given in named.items()
    }
    sources: dict[str, str] = {}
    for path, given in prompt_names(recipe).items():
        for place, name in zip(names[path], given):
            if sources.setdefault(place, os.path.normpath(name)) != os.path.normpath(name):
                message = f"{sources[place]} and {name} would both be {place} in the bundle"
                raise RecipeError(message, hint="give them different names", rule="bundle-name")
    return Places(folder, names)


def relative(name: str) -> str:
    """A recipe's file name as it is kept: of an absolute one the last part."""
    return os.path.basename(name) if os.path.isabs(name) else os.path.normpath(name)


def prompt_names(recipe: dict[str, Any]) -> dict[str, list[str]]:
    """The recipe's own prompt files as it names them, by recipe path; others stay where they are."""
    own = {path: [name for name in names if name] for path, names in _prompts(recipe).items()}
    return {path: names for path, names in own.items() if names}


def _prompts(recipe: dict[str, Any]) -> dict[str, list[str]]:
    """Every prompt file by recipe path, in order; "" for one that is none of the recipe's own."""
    training = recipe.get("datagen", {}).get("prompts", {}).get("files", [])
    asked = [one.file for one in sources_of(recipe["benchmark"]["prompts"]) if one.file]
    return {
        PROMPT_FILES[0]: ["" if hub_file(name) else name for name in training],
        PROMPT_FILES[1]: [file if isinstance(file, str) else "" for file in asked],
    }


def prompt_sources(
    run: Path, recipe: dict[str, Any], steps: list[dict[str, Any]], files_from: Path | None
) -> dict[str, list[Path]]:
    """The prompt files themselves, compared with the digests in the key of the stage that read them.

    Raises:
        RecipeError: one is gone, or has other bytes than the run used.
    """
    sealed = known_json(run / "stages" / "prompts" / "key.json").get("files", {})
    used: dict[str, list[str]] = next((step["files"] for step in steps if step["stage"] == "prompts"), {})
    found: dict[str, list[Path]] = {}
    everything = _prompts(recipe)
    for path, names in prompt_names(recipe).items():
        own = [bool(name) for name in everything[path]]
        digests = list(compress(sealed.get(path, ()), own))
        taken = list(compress(map(Path, used.get(path, ())), own))
        given = [files_from / name for name in names] if files_from else taken
        for file, digest in zip(given, digests):
            if not file.is_file() or file_digest(file) != digest:
                state = "has changed since the run" if file.is_file() else "is not there any more"
                hint = "name the folder where the recipe's files are as the run used them, with --files-from"
                raise RecipeError(f"{file}: {state} ({path})", hint=hint, rule="bundle-files")
        if not len(given) == len(names) == len(digests):
            message = f"{run}: the documents of stage 'prompts' do not say which files were used for {path}"
            raise RecipeError(message, rule="bundle-files")
        found[path] = given
    return found


def needs(run: Path, recipe: dict[str, Any]) -> dict[str, str | None]:
    """What the recipe names and no bundle holds: models in folders, files in the engine's arguments."""
    prompts = set(PROMPT_FILES)
    found: dict[str, str | None] = {
        path: None
        for path in absolute_paths(recipe)
        if path not in prompts and path.rpartition(".")[0] not in prompts
    }
    for key in sorted(run.glob("stages/*/key.json")):
        for path, digests in json_of(key).get("files", {}).items():
            on_hub = path in BROUGHT_MODELS and REPOSITORY_AT.fullmatch(str(named(recipe, path)))
            if path not in prompts and digests and not on_hub:
                found[path] = digests[0] if len(digests) == 1 else value_digest(digests)
    return found
