"""``speculators bundle``: a finished run as one file to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bundle(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a finished run.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", dir_okay=False, help="Where to write it.", show_default=False
        ),
    ] = None,
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="The checkpoint's bytes too, not only its digests.")
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
    """Pack a finished run into one file.

    Recipe, lock, record, report, raw measurements, prompt files, checksums and provenance. The same run
    gives the same bytes, and no path, host or user name of this machine is in them.

    \b
    Examples:
      speculators bundle runs/my-recipe/latest
      speculators bundle runs/my-recipe/latest --with-weights --output release.speculators.tar
    """
    from speculators.bundle.archive import SUFFIX
    from speculators.bundle.create import bundle as write_bundle
    from speculators.bundle.verify import verify
    from speculators.documents import file_digest
    from speculators.errors import RecipeError, SpeculatorsError
    from speculators.quantities import size

    if output is not None and not output.name.endswith(SUFFIX):
        # By it the other verbs tell a bundle from a recipe and a baseline.
        hint = f"name it {output.name}{SUFFIX}"
        raise RecipeError(f"{output}: a bundle's name ends in {SUFFIX}", hint=hint, rule="output")
    archive = write_bundle(run, output, with_weights=with_weights, files_from=files_from)
    try:
        verify(archive.path)
    except SpeculatorsError:  # a run folder that somebody changed: its parts do not fit together
        archive.path.unlink()
        raise
    facts = f"{len(archive.members)} files, {size(archive.path.stat().st_size)}"
    typer.echo(f"{archive.path}: {facts}, sha256 {file_digest(archive.path)}")
    return 0
