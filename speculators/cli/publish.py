"""``speculators publish``: a finished run on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from speculators.bundle.publish import Upload


def publish(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a finished run.", show_default=False)
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="REPO", help="The repository, owner/name.", show_default=False)
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it does not exist yet.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be uploaded; no token or network needed.")
    ] = False,
    files_from: Annotated[
        Path | None,
        typer.Option(
            "--files-from",
            metavar="PATH",
            help="Where the recipe's prompt files are now: the folder that its names start from.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Publish a finished run on the Hugging Face Hub.

    Checkpoint, model card, recipe, lock, and the bundle that repeats it, in one commit. The token is read
    from HF_TOKEN. The prompt files are in the bundle: they become public with it.

    \b
    Examples:
      speculators publish runs/my-recipe/latest --to me/my-draft --dry-run
      HF_TOKEN=... speculators publish runs/my-recipe/latest --to me/my-draft --private
    """
    import tempfile

    from speculators.bundle.publish import publish as put
    from speculators.bundle.publish import uploads

    if dry_run:
        with tempfile.TemporaryDirectory(prefix="speculators-") as folder:
            _show(uploads(run, to, Path(folder), files_from))
        typer.echo(f"nothing was uploaded to {to}")
        return 0
    address, files = put(run, to, private=private, files_from=files_from)
    typer.echo(f"{address}: {len(files)} files")
    return 0


def _show(files: list[Upload]) -> None:
    from speculators.quantities import size

    for one in files:
        typer.echo(f"  {one.sha256[:12]}  {size(one.size):>9}  {one.name}")
