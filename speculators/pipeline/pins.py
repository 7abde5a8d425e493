"""What the names in a recipe stand for on this machine: the pins that a lock holds.

Nothing is fetched and nothing heavy imported.  What cannot be looked at here is said to be unseen,
never guessed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from speculators import __version__
from speculators.datagen.chat_template import chat_template
from speculators.datagen.gguf_header import tokenizer_digests
from speculators.datagen.prepared import state_files
from speculators.datagen.verifier import SMALL_FILES, WEIGHTS
from speculators.documents import value_digest
from speculators.pipeline.file_facts import digest, prepared_digest, remembered, rows
from speculators.pipeline.keys import PACKAGE_ROOT, environment
from speculators.pipeline.lock import NAME, RECIPE_DIGEST, TOOL_DIGEST, ImagePin, Pin, Pins, Unseen
from speculators.pipeline.machine.findings import Finding
from speculators.pipeline.machine.sources import hub_finding, package_finding, verifier_folder
from speculators.pipeline.tool import is_checkout, source_digest
from speculators.recipe.hub_cache import name_in_cache, snapshots
from speculators.recipe.positions import Path as PinPath
from speculators.recipe.prompt_source import BENCHMARK_FILES
from speculators.recipe.recipe import Recipe
from speculators.recipe.source_rules import COMMIT
from speculators.recipe.view import BROUGHT_MODELS, PREPARED
from speculators.stages.table import BUILD_STAGES, REPLAY, VERIFIER

DOCKER = "docker"
BENCHMARK_CLIENT = "guidellm"
PACKAGES = tuple(
    sorted({name for stage in (*BUILD_STAGES, REPLAY) for name in stage.packages} | {BENCHMARK_CLIENT})
)
#: What the stages take of a model's folder; any other file may come and go.
VERIFIER_FILES = (*SMALL_FILES, "*" + WEIGHTS)
DRAFT_FILES = ("config.json", "*" + WEIGHTS)
QUANTISED = "benchmark.quantised"
CODE = ("*.py",)
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
#: What only the local executor sees of a model that a package ships: an image is pinned as a whole.
INSIDE = tuple(("models", "verifier", name) for name in ("version", "files", "tokenizer", "chat_template"))

Values = dict[PinPath, Pin]
Hidden = dict[PinPath, Unseen]


def gather(recipe: Recipe, home: Path, image_pins: Mapping[str, ImagePin] | None = None) -> Pins:
    """What ``recipe`` stands for now.

    Args:
        home: where digests of large files are remembered.
        image_pins: the image of each role, for ``executor: docker`` or in a job of a cluster; None when
            stages run here, or no engine was asked.

    Raises:
        OSError: a file that the recipe names cannot be read.
    """
    values: Values = {
        NAME: recipe.name,
        RECIPE_DIGEST: recipe_digest(recipe.data),
        ("tool", "version"): __version__,
        TOOL_DIGEST: source_digest(PACKAGE_ROOT),
    }
    hidden: Hidden = {}
    for found, unseen in (_verifier(recipe, home, image_pins), _drafts(recipe, home)):
        values |= found
        hidden |= unseen
    values |= _prompts(recipe, home)
    if recipe.data["executor"] == DOCKER:
        values |= _images(image_pins or {})
        inside = INSIDE if "package" in recipe.data["verifier"] else ()
        elsewhere: frozenset[PinPath] = frozenset({("packages",), *inside})
        if image_pins is None:
            hidden[("images",)] = Unseen("no container engine was asked")
    else:
        values |= _packages() | _images(image_pins or {})
        elsewhere = frozenset() if image_pins else frozenset({("images",)})
    return Pins(values, hidden, elsewhere, checkout=is_checkout(PACKAGE_ROOT))


def recipe_digest(data: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a resolved recipe's data without its executor: one lock serves wherever it runs."""
    return value_digest({name: value for name, value in data.items() if name != "executor"})


def _prompts(recipe: Recipe, home: Path) -> Values:
    found: Values = {}
    named = recipe.files()
    for block, files in (
        ("benchmark", named.get(BENCHMARK_FILES, [])),
        ("train", named.get("datagen.prompts.files", [])),
    ):
        for name, path in zip(file_names(files, recipe.path.absolute().parent), files):
            found[("prompts", block, name, "rows")] = rows(path, home)
            found[("prompts", block, name, "sha256")] = digest(path, home)
    for text in (one.random_text for one in recipe.benchmark_sources() if one.random_text):
        name = ",".join(f"{key}={value}" for key, value in text.items())
        found[("prompts", "benchmark", name, "rows")] = recipe.data["benchmark"]["requests"]
        found[("prompts", "benchmark", name, "sha256")] = value_digest(text)
    for folder in named.get(PREPARED, []):
        (name,) = file_names([folder], recipe.path.absolute().parent)
        found[("prompts", "train", name, "rows")] = len(state_files(folder))
        found[("prompts", "train", name, "sha256")] = prepared_digest(folder, home)
    return found


def file_names(files: Sequence[Path], folder: Path) -> list[str]:
    """A name for each file: relative to ``folder``, or its last part alone where that would tell of this
    machine's folders; of a dataset on the hub its commit too.  Of equal ones the second gets a number."""
    found: list[str] = []
    for path in files:
        own = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        name = spelled(name_in_cache(path) or own)
        same = sum(other.partition("#")[0] == name for other in found)
        found.append(f"{name}#{same + 1}" if same else name)
    return found


def spelled(name: str) -> str:
    """A file's name as text, also where its bytes are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _verifier(recipe: Recipe, home: Path, image_pins: Mapping[str, ImagePin] | None) -> tuple[Values, Hidden]:
    verifier, at = recipe.data["verifier"], ("models", "verifier")
    if package := verifier.get("package"):
        if recipe.data["executor"] == DOCKER:
            return _package_in_image(package, at, image_pins or {}), {}
        return _package(package, verifier["file"], at, home)
    values: Values = {}
    hidden: Hidden = {}
    if repository := verifier.get("repository"):
        revision = verifier.get("revision") or "main"
        finding = hub_finding("verifier", repository, revision, os.environ)
        values, hidden = _repository(repository, revision, at, finding)
    patterns = (*VERIFIER_FILES, *(CODE if verifier.get("trust_remote_code") else ()))
    if folder := verifier_folder(recipe, os.environ):
        values |= _files(folder, at, patterns, home) | _tokenizer(folder, at, home)
    return values, hidden


def _drafts(recipe: Recipe, home: Path) -> tuple[Values, Hidden]:
    values: Values = {}
    hidden: Hidden = {}
    named, on_hub = recipe.files(), recipe.hub_models()
    for name in BROUGHT_MODELS:
        at = ("models", name.rpartition(".")[2])
        if source := on_hub.get(name):
            found, unseen = _repository(*source, at, hub_finding(name, *source, os.environ))
            values |= found
            hidden |= unseen
        for folder in named.get(name, []):
            # A quantised copy is served whole, with a tokenizer of its own.
            values |= _files(folder, at, VERIFIER_FILES if name == QUANTISED else DRAFT_FILES, home)
    return values, hidden


def _repository(repository: str, revision: str, at: PinPath, finding: Finding) -> tuple[Values, Hidden]:
    values: Values = {(*at, "repository"): repository}
    if COMMIT.fullmatch(revision):
        values[(*at, "revision")] = revision
    # A snapshot's folder is named by its commit, whatever branch or tag was asked for.
    for snapshot in list(snapshots(repository, revision, os.environ))[:1]:
        values[(*at, "revision")] = snapshot.name
    return values, _unseen(at, finding)


def _unseen(at: PinPath, finding: Finding) -> Hidden:
    return {at: Unseen(f"{finding.check}: {finding.detail}", finding.mend)} if finding.mend else {}


def _package(package: str, file: str, at: PinPath, home: Path) -> tuple[Values, Hidden]:
    values: Values = {(*at, "package"): package}
    finding = package_finding(package, file)
    if finding.mend:
        return values, _unseen(at, finding)
    path = next(one for one in metadata.files(package) or [] if one.name == Path(file).name)
    found = Path(str(path.locate()))
    values[(*at, "version")] = metadata.version(package)
    values[(*at, "files", spelled(found.name))] = digest(found, home)
    facts = remembered(found, "gguf", tokenizer_digests, home)
    return values | {(*at, name): value for name, value in facts.items()}, {}


def _package_in_image(package: str, at: PinPath, image_pins: Mapping[str, ImagePin]) -> Values:
    """The package that the image holds: the host's may be another one, or none."""
    values: Values = {(*at, "package"): package}
    if version := image_pins[VERIFIER.role].packages.get(package) if VERIFIER.role in image_pins else "":
        values[(*at, "version")] = version
    return values


def _files(folder: Path, at: PinPath, patterns: Iterable[str], home: Path) -> Values:
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {(*at, "files", spelled(path.name)): digest(path, home) for path in files}


def _tokenizer(folder: Path, at: PinPath, home: Path) -> Values:
    found: Values = {}
    for path in [folder / name for name in TOKENIZERS if (folder / name).is_file()][:1]:
        found[(*at, "tokenizer")] = digest(path, home)
    template = chat_template(folder)
    if template and isinstance(template, str):  # of several, none is the one
        found[(*at, "chat_template")] = sha256(template.encode()).hexdigest()
    return found


def _packages() -> Values:
    """The versions that stages run with in the local environment; of Python, those that matter."""
    found = environment(PACKAGES)
    values: Values = {("packages", name): found[name] for name in PACKAGES if name in found}
    values[("packages", "python")] = ".".join(found["python"].split(".")[:2])
    return values


def _images(image_pins: Mapping[str, ImagePin]) -> Values:
    values: Values = {}
    for role, image in image_pins.items():
        at: PinPath = ("images", role)
        values[(*at, "digest")] = image.digest
        values[(*at, "platform")] = image.platform
        values[(*at, "reference")] = image.reference
        for name in PACKAGES:
            if name in image.packages:
                values[(*at, "packages", name)] = image.packages[name]
    return values
