"""A finished run on the Hugging Face Hub: checkpoint, card, recipe, lock and the bundle that repeats it.

All in one commit, through the Hub's own client.  The checkpoint is the sealed one, which names its verifier
as anywhere; the token comes from ``HF_TOKEN`` and goes nowhere else.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from speculators.bundle.archive import Content
from speculators.bundle.contents import LOCK_NAME, RESOLVED_NAME, Contents, gather
from speculators.bundle.create import bundle, bundle_name
from speculators.bundle.fetch import ENDPOINT, first_line, is_failed_request
from speculators.bundle.model import MODEL, canonical_model, content_digest
from speculators.bundle.verify import verify
from speculators.errors import MachineError, RecipeError
from speculators.report.served_card import LOCK_NAME as CARD_LOCK_NAME
from speculators.report.served_card import RECIPE_NAME, served_sections

TOKEN = "HF_TOKEN"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CARD_NAME = "README.md"


class Upload(NamedTuple):
    """One file of the repository."""

    name: str
    content: Content

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @property
    def sha256(self) -> str:
        return content_digest(self.content)


def uploads(run: Path, repository: str, folder: Path, files_from: Path | None = None) -> list[Upload]:
    """What the repository will hold; the bundle is written into ``folder``.

    Raises:
        RecipeError: the run is not finished, or its checkpoint is not as it was sealed.
    """
    require_repository(repository)
    run = run.resolve()
    contents = gather(run, files_from=files_from)
    archive = bundle(run, folder / bundle_name(contents), files_from=files_from)
    verify(archive.path)
    address = f"hf://{repository}/{archive.path.name}"
    model = {name.removeprefix(f"{MODEL}/"): content for name, content in canonical_model(run).items()}
    found = {
        **model,
        CARD_NAME: card(contents, model[CARD_NAME], address),
        RECIPE_NAME: contents.members[RESOLVED_NAME],
        archive.path.name: archive.path,
    }
    if LOCK_NAME in contents.members:
        found[CARD_LOCK_NAME] = contents.members[LOCK_NAME]
    return [Upload(name, found[name]) for name in sorted(found)]


def require_repository(name: str) -> None:
    if not REPOSITORY.fullmatch(name):
        raise RecipeError(f"--to {name}: not a repository", hint="as in owner/name", rule="usage")


def card(contents: Contents, written: Content, address: str) -> bytes:
    """The package stage's card with what was measured, and how to repeat it."""
    text = written if isinstance(written, bytes) else written.read_bytes()
    recipe, lock = (contents.members.get(name, b"") for name in (RESOLVED_NAME, LOCK_NAME))
    assert isinstance(recipe, bytes)
    assert isinstance(lock, bytes)
    return text + b"\n" + served_sections(contents.report, recipe.decode(), lock.decode(), address).encode()


def publish(
    run: Path, repository: str, *, private: bool = False, files_from: Path | None = None
) -> tuple[str, list[Upload]]:
    """Put the run onto the Hub; the commit's address and what it holds.

    Raises:
        RecipeError: there is nothing to publish, or no token.
        MachineError: the Hub's client is not installed, or the Hub refuses or cannot be reached.
    """
    require_repository(repository)
    token = os.environ.get(TOKEN, "")
    if not token:
        hint = f"{TOKEN}=... in the environment, with the right to write; --dry-run needs none"
        raise RecipeError(f"publishing needs a token in {TOKEN}", hint=hint, rule="no-token")
    with tempfile.TemporaryDirectory(prefix="speculators-") as folder:
        files = uploads(run, repository, Path(folder), files_from)
        return commit(files, repository, token, private), files


def commit(files: list[Upload], repository: str, token: str, private: bool) -> str:
    """Create the repository where there is none, and add ``files`` in one commit; its address."""
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ModuleNotFoundError as error:
        hint = "install it: pip install huggingface-hub"
        raise MachineError("publishing needs huggingface_hub", hint=hint, rule="package") from error
    operations = [CommitOperationAdd(path_in_repo=one.name, path_or_fileobj=given(one)) for one in files]
    try:
        api = HfApi(endpoint=os.environ.get(ENDPOINT) or None, token=token)
        api.create_repo(repository, private=private or None, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message="Add the checkpoint and its record")
    except Exception as error:
        # A refused card is a ValueError, a failed upload of a large file a RuntimeError.
        if not is_failed_request(error) and not isinstance(error, (ValueError, RuntimeError)):
            raise
        raise refused(error, repository, token) from None  # the cause's own words may hold the request
    return str(done.commit_url)


def given(one: Upload) -> Any:
    return one.content if isinstance(one.content, bytes) else str(one.content)


def refused(error: Exception, repository: str, token: str) -> MachineError:
    """What the Hub or the way to it said, without the token."""
    said = first_line(error).replace(token, f"${TOKEN}")
    hint = f"does the token in {TOKEN} have the right to write to {repository}?"
    return MachineError(f"{repository}: {said}", hint=hint, rule="hub")
