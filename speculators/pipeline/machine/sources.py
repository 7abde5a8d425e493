"""Whether the models that a recipe names are here, whole.  Stages run offline: nothing fetches them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from speculators.pipeline.machine.findings import Finding, missing, ok
from speculators.recipe.hub_cache import HubFile, snapshots
from speculators.recipe.prompt_source import PackageFile
from speculators.recipe.recipe import Recipe

INDEX_NAME = "model.safetensors.index.json"
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def source_findings(
    recipe: Recipe, environ: Mapping[str, str], *, packages_here: bool = True
) -> list[Finding]:
    """The verifier's, and those of drafts that the recipe takes from the hub.

    ``packages_here``: whether a model that a package ships is this environment's affair, not an image's.
    """
    verifier = [verifier_finding(recipe, environ)]
    if "package" in recipe.data["verifier"] and not packages_here:
        verifier = []
    return [*verifier, *draft_findings(recipe, environ), *data_findings(recipe, environ)]


def run_findings(recipe: Recipe, environ: Mapping[str, str], *, makes_verifier: bool) -> list[Finding]:
    """The models that a run takes from the hub's cache.

    ``makes_verifier``: whether the verifier's stage is to run; its stored output needs no cache any more.
    """
    needs_verifier = makes_verifier and "repository" in recipe.data["verifier"]
    verifier = [verifier_finding(recipe, environ)] if needs_verifier else []
    return [*verifier, *draft_findings(recipe, environ), *data_findings(recipe, environ)]


def draft_findings(recipe: Recipe, environ: Mapping[str, str]) -> list[Finding]:
    """One for each draft that the recipe takes from the hub."""
    return [hub_finding(name, *source, environ) for name, source in recipe.hub_models().items()]


def data_findings(recipe: Recipe, environ: Mapping[str, str]) -> list[Finding]:
    """One for each file of prompts that the recipe takes from the hub or from a package."""
    return [_data_finding(file, environ) for file in recipe.data_elsewhere()]


def _data_finding(file: HubFile | PackageFile, environ: Mapping[str, str]) -> Finding:
    if isinstance(file, PackageFile):
        return package_finding(file.package, file.name, "dataset")
    name = f"{file.path} of dataset {file.repository}@{file.revision}"
    if file.cached(environ):
        return ok("dataset", f"{name} is in the local Hugging Face cache")
    what = shlex.join([file.repository, file.path, "--repo-type", "dataset", "--revision", file.revision])
    mend = f"hf download {what}{gated(environ)}"
    return missing("dataset", f"{name} is not in the local Hugging Face cache", mend)


def verifier_finding(recipe: Recipe, environ: Mapping[str, str]) -> Finding:
    verifier = recipe.data["verifier"]
    if repository := verifier.get("repository"):
        return hub_finding("verifier", repository, verifier.get("revision") or "main", environ)
    if package := verifier.get("package"):
        return package_finding(package, verifier["file"])
    (folder,) = recipe.files()["verifier.path"]
    if lacks := gaps(folder):
        mend = "copy the whole model folder: config.json, *.safetensors and the tokenizer's files"
        return missing("verifier", f"{folder} lacks {', '.join(lacks)}", mend)
    return ok("verifier", str(folder))


def verifier_folder(recipe: Recipe, environ: Mapping[str, str]) -> Path | None:
    """Where the verifier's weights are now; None when they are not here, or in a GGUF file."""
    verifier = recipe.data["verifier"]
    if repository := verifier.get("repository"):
        return next(snapshots(repository, verifier.get("revision") or "main", environ), None)
    return next(iter(recipe.files().get("verifier.path", ())), None)


def gated(environ: Mapping[str, str]) -> str:
    """What else a download may need; nothing where a token is at hand."""
    if any(environ.get(token) for token in TOKENS):
        return ""
    return " (if it is gated: accept its terms on its page, then `hf auth login` or export HF_TOKEN)"


def hub_finding(check: str, repository: str, revision: str, environ: Mapping[str, str]) -> Finding:
    name = f"{repository}@{revision}"
    snapshot = next(snapshots(repository, revision, environ), None)
    mend = f"hf download {repository} --revision {revision}{gated(environ)}"
    if snapshot is None:
        return missing(check, f"{name} is not in the local Hugging Face cache", mend)
    if lacks := gaps(snapshot):
        return missing(check, f"{name} was not fetched whole: it lacks {', '.join(lacks)}", mend)
    return ok(check, f"{name} is in the local Hugging Face cache")


def package_finding(package: str, file: str, check: str = "verifier") -> Finding:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        detail = f"package {package}, which ships {file}, is not installed"
        return missing(check, detail, f"pip install {package}")
    if not any(path.name == Path(file).name and Path(str(path.locate())).is_file() for path in files):
        correct = "correct verifier.file, or: " if check == "verifier" else ""
        mend = f"{correct}pip install --force-reinstall --no-deps {package}"
        return missing(check, f"package {package} {metadata.version(package)} holds no {file}", mend)
    return ok(check, f"{file} in {package} {metadata.version(package)}")


def gaps(folder: Path) -> list[str]:
    """What a model folder lacks of its config and its weights; a link to nothing is not there."""
    found = [] if (folder / "config.json").is_file() else ["config.json"]
    try:
        index = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        weights = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError):
        whole = any(path.is_file() for path in folder.glob("*.safetensors"))
        return found if whole else [*found, "*.safetensors"]
    absent = [name for name in weights if not (folder / name).is_file()]
    # Hundreds of shards would bury the message.
    return [*found, *absent[:2], *([f"{len(absent) - 2} more files"] if len(absent) > 2 else [])]
