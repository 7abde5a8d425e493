"""Rules on what a recipe starts from: its verifier, its algorithm or draft, its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from speculators.datagen.parquet import is_parquet
from speculators.datagen.prepared import prepared_problem
from speculators.datagen.prompt_files import EXAMPLE, GZIP, SUFFIXES, UNREAD, is_lines
from speculators.datagen.prompt_sets import AS_THEY_ARE, Columns
from speculators.datagen.prompts import read_prompts
from speculators.errors import RecipeError
from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.hub_cache import HubFile, hub_file
from speculators.recipe.positions import split_path
from speculators.recipe.suggestions import listing
from speculators.recipe.view import View, free_kind

# os.path answers False where Path methods raise: for names too long, or with a NUL in them.

SOURCES = ("path", "repository", "package")
#: What makes, brings or further measures a draft.
DRAFTS_NEED = ("datagen", "training", "draft", "benchmark.quantised")
TRAINED_BLOCKS = ("algorithm", "datagen", "training")
HUB = "hf://"
#: How many rows of a prompt file a check reads, and up to how many bytes one that has no lines.
FIRST_ROWS, READ_WHOLE = 100, 10_000_000
COMMIT = re.compile(r"[0-9a-f]{40}")
#: What else may bring rows to train on, and how their responses are made.
PROMPT_SOURCES = ("datagen.prompts.files", "datagen.prompts.magpie.count")
GENERATION = ("datagen.responses", "datagen.max_tokens", "datagen.temperature")
#: A repository on the hub at a revision: what ``draft:`` may name beside a folder.
REPOSITORY_AT = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+@\S+")


def names_verifier(view: View) -> bool:
    """Whether the recipe says, soundly, which model it is about."""
    return view.is_sound("verifier") and any(view.has(f"verifier.{name}") for name in SOURCES)


def one_verifier_source(view: View) -> Iterator[Diagnostic]:
    if not all(view.is_sound(f"verifier.{name}") for name in SOURCES):
        return
    given = [name for name in SOURCES if view.has(f"verifier.{name}")]
    if len(given) > 1:
        names = listing(f"'{name}'" for name in given)
        message = f"verifier has {len(given)} sources, {names}, but needs exactly one"
        hint = "remove what is not meant; what another recipe brings by 'extends' can only be removed there"
        yield view.problem("error", "verifier-source", f"verifier.{given[1]}", message, hint, key=True)
    elif not given and not view.has("verifier.file") and not view.has("verifier.revision"):
        hint = "give 'path', or 'repository' with 'revision', or 'package' with 'file'"
        yield view.problem("error", "verifier-source", "verifier", "verifier names no model", hint, key=True)


def source_companions(view: View) -> Iterator[Diagnostic]:
    """``file`` goes with ``package``, ``revision`` with ``repository``."""
    for name, companion in (("file", "package"), ("package", "file"), ("revision", "repository")):
        other = f"verifier.{companion}"
        if view.has(f"verifier.{name}") and not view.has(other) and view.is_sound(other):
            message = f"'{name}' needs '{companion}' beside it in verifier"
            yield view.problem("error", "verifier-source", f"verifier.{name}", message, key=True)


def pinned_revision(view: View) -> Iterator[Diagnostic]:
    hint = "pin the commit: 40 hexadecimal digits, from the repository's history on the hub"
    revision = view.get("verifier.revision")
    if revision is None:
        message = "verifier.repository has no revision: its main branch can change between runs"
        yield view.problem("warning", "mutable-revision", "verifier.repository", message, hint)
    elif not COMMIT.fullmatch(revision):
        message = f"revision '{revision}' is a branch or tag, or cut short: it can change between runs"
        yield view.problem("warning", "mutable-revision", "verifier.revision", message, hint)


def draft_or_training(view: View) -> Iterator[Diagnostic]:
    extra = [name for name in TRAINED_BLOCKS if view.has(name)]
    if extra and not free_kind(view.data):
        message = f"'draft' brings a trained draft, but the recipe also has {listing(extra)}"
        hint = f"remove 'draft' to train, or {listing(extra)} to measure the draft as it is"
        yield view.problem("error", "draft-and-training", "draft", message, hint, key=True)


def nothing_to_train(view: View) -> Iterator[Diagnostic]:
    """A kind without a draft model has no use for what would make one."""
    kind = free_kind(view.data)
    if kind and (extra := [name for name in DRAFTS_NEED if view.get(name) is not None]):
        message = f"kind '{kind}' has no draft model, but the recipe also has {listing(extra)}"
        hint = f"remove {listing(extra)}; recipes with a draft measure '{kind}' beside it anyway"
        yield view.problem("error", "nothing-to-train", "algorithm.kind", message, hint)


def draft_exists(view: View) -> Iterator[Diagnostic]:
    yield from _model_exists(view, "draft", "draft")


def start_exists(view: View) -> Iterator[Diagnostic]:
    if view.get("training.init_from") is not None:
        yield from _model_exists(view, "training.init_from", "draft")


def quantised_exists(view: View) -> Iterator[Diagnostic]:
    if view.get("benchmark.quantised") is not None:
        yield from _model_exists(view, "benchmark.quantised", "model")


def _model_exists(view: View, name: str, what: str) -> Iterator[Diagnostic]:
    model = view.get(name)
    if REPOSITORY_AT.fullmatch(model) and not os.path.exists(view.folder / model):
        if not COMMIT.fullmatch(model.rpartition("@")[2]):
            message = f"{what} '{model}' is not pinned to a commit: it can change between runs"
            yield view.problem("warning", "mutable-revision", name, message)
    elif not os.path.isdir(view.folder / model):
        message = f"{what} folder '{model}' does not exist beside the recipe"
        hint = f"give an existing folder, or repository@revision for a {what} on the hub"
        yield view.problem("error", "missing-file", name, message, hint)
    elif not os.path.isfile(view.folder / model / "config.json"):
        message = f"{what} folder '{model}' has no config.json"
        hint = f"give the folder that holds the {what}'s config.json and weights"
        yield view.problem("error", "missing-file", name, message, hint)


def verifier_folder(view: View) -> Iterator[Diagnostic]:
    path = view.get("verifier.path")
    if not os.path.isdir(view.folder / path):
        message = f"folder '{path}' does not exist"
        yield view.problem("error", "missing-file", "verifier.path", message, _relative(path))
    elif not os.path.isfile(view.folder / path / "config.json"):
        message = f"folder '{path}' has no config.json"
        hint = "it must be a Hugging Face model folder"
        yield view.problem("error", "missing-file", "verifier.path", message, hint)


def training_files(view: View) -> Iterator[Diagnostic]:
    name = "datagen.prompts.files"
    for number, file in enumerate(view.get(name)):
        found = list(prompt_file(view, name, hub_file(file) or file, number))
        kept = view.get("datagen.responses") == "keep" and view.get("datagen.prepared") is None
        yield from found or first_rows(view, name, file, number, answered=kept)


def prompt_file(view: View, name: str, file: str | HubFile, item: int | None) -> Iterator[Diagnostic]:
    """What is amiss with a file that the value of ``name``, or its ``item``-th item, gives."""
    on_hub = file.path if isinstance(file, HubFile) else file.partition(HUB)[2]
    if isinstance(file, str) and not file.startswith(HUB):
        yield from _readable(view, name, file, item)
    elif isinstance(file, str) or not on_hub.removesuffix(GZIP).endswith(SUFFIXES):
        message = f"'{on_hub}' names no {listing(SUFFIXES, 'or')} file of a dataset"
        hint = "write hf://datasets/OWNER/NAME@REVISION/PATH, PATH as in its 'Files' on the hub"
        yield view.problem("error", "hub-file", name, message, hint, item=item)
    elif not COMMIT.fullmatch(file.revision):
        message = f"revision '{file.revision}' of dataset {file.repository} can change between runs"
        hint = "pin the commit: 40 hexadecimal digits, from the repository's history on the hub"
        yield view.problem("warning", "mutable-revision", name, message, hint, item=item)


def _readable(view: View, name: str, file: str, item: int | None = None) -> Iterator[Diagnostic]:
    path = view.folder / file
    if path.suffix in UNREAD:
        message = f"'{file}' is of a kind that is not read"
        hint = f"save its rows as one of {listing(SUFFIXES)}"
        yield view.problem("error", "prompt-file", name, message, hint, item=item)
    elif os.path.isdir(path):
        message = f"'{file}' is a folder, not a file"
        yield view.problem("error", "missing-file", name, message, "name the files in it", item=item)
    elif not os.path.isfile(path):
        message = f"file '{file}' does not exist"
        yield view.problem("error", "missing-file", name, message, _relative(file), item=item)
    elif not os.access(path, os.R_OK):
        message = f"file '{file}' may not be read by this user"
        yield view.problem("error", "missing-file", name, message, item=item)


def first_rows(
    view: View,
    name: str,
    file: str,
    item: int | None,
    columns: Columns = AS_THEY_ARE,
    only: str = "",
    *,
    answered: bool = False,
) -> Iterator[Diagnostic]:
    """The first row of one of the recipe's own files that is no prompt: columns of other names, usually.

    Only the first rows are read, and of a large file without lines none, for a check takes half a second; a
    run reads them all.  ``columns`` and ``only`` as in ``read_prompts``; ``answered``: rows without an answer
    are of no use.
    """
    path = view.folder / file
    if hub_file(file) or is_parquet(path):  # the one may not be here, the other needs pyarrow
        return
    if not is_lines(path) and path.stat().st_size > READ_WHOLE:
        return
    try:
        prompts = read_prompts([path], columns, only, first=FIRST_ROWS)
    except RecipeError as error:
        yield view.problem("error", error.rule, name, error.message, error.hint, item=item)
        return
    if not prompts and not only:
        message = f"'{file}' has no rows"
        yield view.problem("error", "prompts", name, message, f"write one a line: {EXAMPLE}", item=item)
    elif answered and not any(prompt.messages[-1]["role"] == "assistant" for prompt in prompts):
        message = f"responses: keep, but in '{file}' none of the first {len(prompts)} rows ends in an answer"
        hint = "set responses to regenerate, or give the rows a 'response' or a last message of the assistant"
        yield view.problem("warning", "no-responses", name, message, hint, item=item)


def prepared_data(view: View) -> Iterator[Diagnostic]:
    """A prepared dataset is whole, and the only source of rows."""
    if (folder := view.get("datagen.prepared")) is None:
        return
    if problem := prepared_problem(view.folder / folder):
        message = f"prepared dataset '{folder}' {problem[0]}"
        yield view.problem("error", "prepared", "datagen.prepared", message, problem[1])
    for name in PROMPT_SOURCES:
        if view.is_sound(name) and view.get(name):
            message = f"datagen.prepared brings the rows, but {name} names others"
            hint = "remove one of the two: rows with states and rows without are not mixed"
            yield view.problem("error", "prepared-and-prompts", name, message, hint)
    unused = [name for name in GENERATION if view.positions.has(split_path(name))]
    if unused:
        message = f"with datagen.prepared nothing is generated: {listing(unused)} without effect"
        yield view.problem("warning", "prepared-and-generation", unused[0], message, key=True)


def some_prompts(view: View) -> Iterator[Diagnostic]:
    if view.get("datagen.prepared") is not None or not view.is_sound("datagen.prepared"):
        return
    if not view.get("datagen.prompts.files") and not view.get("datagen.prompts.magpie.count"):
        message = "datagen.prompts has neither files nor magpie prompts: there is nothing to train on"
        hint = "name 'files', or set 'magpie.count' to let the verifier write prompts; or datagen.prepared"
        yield view.problem("error", "no-prompts", "datagen.prompts", message, hint, key=True)


def kept_responses(view: View) -> Iterator[Diagnostic]:
    count = view.get("datagen.prompts.magpie.count")
    if view.get("datagen.responses") == "keep" and count:
        message = f"responses: keep needs answered prompts, but magpie writes {count} without answers"
        hint = "set magpie.count to 0, or responses to regenerate"
        yield view.problem(
            "error",
            "keep-with-magpie",
            "datagen.responses",
            message,
            hint,
            uses=("datagen.prompts.magpie.count",),
        )


def _relative(name: str) -> str:
    """What may be amiss with the name of a file or folder that is not there."""
    if name.startswith("~") or "$" in name:
        return "'~' and '$' are not filled in: write the name out"
    return "file names are relative to the recipe's folder"
