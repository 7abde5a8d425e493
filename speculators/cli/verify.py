"""``speculators verify``: is this bundle what it says?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from speculators.bundle.verify import Verified


def verify(
    source: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A file, https:// or hf:// address.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Check a bundle: every byte, digest and schema, and that its parts fit together.

    No network is needed for a file. Exit code 2 when something is not as it was written; the message names
    the file in the bundle.

    \b
    Examples:
      speculators verify my-recipe-20261122-115112-2aab.speculators.tar
      speculators verify https://example.org/my.speculators.tar
      speculators verify hf://owner/repository@main/my.speculators.tar --json
    """
    from speculators.bundle.archive import DamagedBundleError
    from speculators.bundle.fetch import fetched
    from speculators.bundle.verify import VERIFY_SCHEMA
    from speculators.bundle.verify import verify as check

    with fetched(source) as path:
        try:
            found = check(path)
        except DamagedBundleError as error:
            if as_json:
                document = {"schema": VERIFY_SCHEMA, "bundle": path.name, "ok": False, "error": error.message}
                typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
            raise
    _show(found, as_json)
    return 0


def _show(found: Verified, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2, ensure_ascii=False))
        return
    for line in found.checked:
        typer.echo(f"  ok           {line}")
    for line in found.not_checked:
        typer.echo(f"  not checked  {line}")
    typer.echo(f"{found.archive.path.name}: as it was written, unsigned")
