"""A finished run as one file: gathered, described, written, and read again before it is called done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speculators.bundle.archive import SUFFIX, SUMS_NAME, Archive, read_archive, sums_text, write_archive
from speculators.bundle.attestation import PROVENANCE_NAME, TESTS_NAME, provenance, test_result
from speculators.bundle.contents import Contents, gather
from speculators.bundle.model import content_digest
from speculators.errors import RecipeError

BUNDLE_SCHEMA = "speculators/bundle/v1"
BUNDLE_NAME = "bundle.json"


def bundle(
    run: Path, output: Path | None = None, *, with_weights: bool = False, files_from: Path | None = None
) -> Archive:
    """Write the bundle of the run in folder ``run``, by default where the command is given.

    ``output``: its file, or a folder for it.

    The same run gives the same bytes.

    Raises:
        RecipeError: the run is not finished, or a file that it used has changed since.
    """
    run = run.resolve()  # "latest" is a link
    require_folder(output)
    contents = gather(run, with_weights=with_weights, files_from=files_from)
    target = output or Path(bundle_name(contents))
    target = target / bundle_name(contents) if target.is_dir() else target
    members = dict(contents.members)
    digests = {name: content_digest(content) for name, content in members.items()}
    for name, statement in (
        (PROVENANCE_NAME, provenance(contents, digests)),
        (TESTS_NAME, test_result(contents, digests)),
    ):
        members[name] = as_bytes(statement)
        digests[name] = content_digest(members[name])
    members[BUNDLE_NAME] = as_bytes(description(contents, digests, members.keys()))
    digests[BUNDLE_NAME] = content_digest(members[BUNDLE_NAME])
    members[SUMS_NAME] = sums_text(digests).encode()
    write_archive(target, members)
    return read_archive(target)


def require_folder(output: Path | None) -> None:
    """Stop before any work where ``output`` cannot be written.

    Raises:
        RecipeError: its folder is not there.
    """
    if output is not None and not output.absolute().parent.is_dir():
        hint = "make it, or name another place with --output"
        raise RecipeError(f"{output}: its folder is not there", hint=hint, rule="output")


def bundle_name(contents: Contents) -> str:
    """What a bundle is called unless somebody names it."""
    return f"{contents.record['recipe']['name']}-{contents.record['id']}{SUFFIX}"


def description(contents: Contents, digests: dict[str, str], names: Any) -> dict[str, Any]:
    """``bundle.json``: what is in the bundle, what is named in it only, and what was changed on the way."""
    return {
        "schema": BUNDLE_SCHEMA,
        "run": contents.record["id"],
        "recipe": {name: contents.record["recipe"][name] for name in ("name", "sha256")},
        "tool": contents.record["tool"],
        "recipe_folder": contents.recipe_folder,
        "files": contents.files,
        "needs": contents.needs,
        "weights": contents.weights,
        "members": {
            name: {"sha256": digests[name]} | ({"was": contents.was[name]} if name in contents.was else {})
            for name in sorted(names)
        },
    }


def as_bytes(document: Any) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
