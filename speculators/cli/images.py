"""``speculators images``: what stages can run in, what of it is here, and whether it is what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculators.cli.options import load

if TYPE_CHECKING:
    from speculators.executors.image_check import Verdict
    from speculators.executors.image_store import Found
    from speculators.executors.images import Image

EPILOG = """\b
Examples:
  speculators images list
  speculators images build cpu
  speculators images build cpu --base REGISTRY/python:3.11-slim --index-url https://packages.example/simple
  speculators images verify
  speculators images verify --recipe my.yaml
"""

IndexUrl = Annotated[
    str,
    typer.Option(
        "--index-url",
        metavar="URL",
        help="Package index or mirror. It stays readable in the image: no password in it.",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Images of containers/images.yaml.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

images = typer.Typer(
    add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


@images.callback(epilog=EPILOG, invoke_without_command=True)
def group(context: typer.Context) -> None:
    """List, build and verify the images that stages can run in."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@images.command("list")
def list_images(as_json: AsJson = False) -> int:
    """Show the images that ship, and which of them this engine has.

    Works without an engine, and then says nothing of what is here.

    \b
    Examples:
      speculators images list
      speculators images list --json
    """
    from speculators.errors import MachineError
    from speculators.executors import image_store
    from speculators.executors.engine import connect
    from speculators.executors.images import load_images

    table = load_images()
    found: dict[str, Found | None] | None = None
    reason = ""
    try:
        client = connect().client
        found = {name: image_store.find(image, client) for name, image in table.images.items()}
    except MachineError as error:
        reason = error.message
    if as_json:
        rows = {name: _row(image, found) for name, image in table.images.items()}
        document = {"schema": "speculators/images-list/v1", "engine": not reason, "images": rows}
        typer.echo(json.dumps(document | {"sets": table.sets}, indent=2))
        return 0
    for line in _listing(table.images, found):
        typer.echo(line)
    for name, roles in table.sets.items():
        typer.echo(f"set {name}: {', '.join(f'{role} {image}' for role, image in roles.items())}")
    if reason:
        typer.echo(f"what is in the engine is not known: {reason}", err=True)
    return 0


@images.command()
def build(
    names: Names = None,
    base: Annotated[
        str,
        typer.Option("--base", metavar="REF", help="Build on this image instead.", show_default=False),
    ] = "",
    platform: Annotated[
        str,
        typer.Option(
            "--platform",
            metavar="OS/ARCH",
            help="For another machine, as in linux/arm64.",
            show_default=False,
        ),
    ] = "",
    network: Annotated[
        str,
        typer.Option(
            "--network",
            metavar="MODE",
            help="Network of the build's commands, as in host.",
            show_default=False,
        ),
    ] = "",
    index_url: IndexUrl = "",
    as_json: AsJson = False,
) -> int:
    """Build images here.

    Without NAME: all that are not pulled. The build's output goes to stderr; the engine's id of the
    image and the digest of its contents, by which locks pin it, to stdout.

    \b
    Examples:
      speculators images build cpu
      speculators images build cpu --base registry.example/python:3.11-slim --network host
      speculators images build cuda-trainer --platform linux/arm64
    """
    from speculators.errors import RecipeError
    from speculators.executors import image_build

    chosen = [image for image in _chosen(names) if names or image.build]
    if base and len(chosen) != 1:
        raise RecipeError("--base is for one image", hint="name it", rule="usage")
    if "@" in index_url:
        raise RecipeError(
            "--index-url with a user or password: it would stay readable in the image's history",
            hint="use an index that needs none from this machine, or build on a base that is set up for it",
            rule="secret",
        )
    from speculators.executors.engine import connect

    client = connect().client
    options = image_build.BuildOptions(base, platform, network, index_url)
    made = {image.name: image_build.build(image, client, options, tell=_tell) for image in chosen}
    if as_json:
        rows = {image.name: _row(image, made) for image in chosen}
        typer.echo(json.dumps({"schema": "speculators/images-build/v1", "images": rows}, indent=2))
        return 0
    for image in chosen:
        typer.echo(f"{image.name}  {image.reference}")
        typer.echo(f"  id        {made[image.name].id}")
        typer.echo(f"  contents  {made[image.name].contents}")
    return 0


@images.command()
def verify(
    names: Names = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", metavar="RECIPE", help="The images in this recipe's lock.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check that images are what they should be.

    The digest, vLLM's version and the packages that the stages import, asked inside of a container
    without a network. Without NAME: all that this engine has; with --recipe: those that its lock pins, by
    the digests and versions there. Exit code 2 when an image differs, 4 when a named one is not here.

    \b
    Examples:
      speculators images verify
      speculators images verify cpu
      speculators images verify --recipe my.yaml
    """
    if names and recipe:
        raise typer.BadParameter("--recipe names the images by its lock: leave NAME out")
    verdicts = _locked_verdicts(recipe) if recipe else _shipped_verdicts(names)
    if verdicts is None:
        return 2
    if as_json:
        document: dict[str, Any] = {verdict.image: verdict._asdict() for verdict in verdicts}
        typer.echo(json.dumps({"schema": "speculators/images-verify/v1", "images": document}, indent=2))
    else:
        _show(verdicts)
    return _exit_code(verdicts, named=bool(names or recipe))


def _shipped_verdicts(names: list[str] | None) -> list[Verdict]:
    """On the images of ``images.yaml``."""
    from speculators.executors import image_check
    from speculators.executors.engine import connect
    from speculators.executors.images import load_images

    chosen, table = _chosen(names), load_images()
    client = connect().client
    return [image_check.check(image, image_check.roles_of(image.name, table), client) for image in chosen]


def _locked_verdicts(path: Path) -> list[Verdict] | None:
    """On the images in the lock of the recipe in ``path``, by their roles; None when that has errors."""
    recipe = load(path, None)
    if recipe is None:
        return None
    from speculators.executors import image_check
    from speculators.executors.engine import connect
    from speculators.pipeline.containers import locked_images

    locked = locked_images(recipe)
    client = connect().client
    return [
        image_check.check(one.image, one.roles, client, one.digest, one.packages)._replace(
            image=", ".join(one.roles)
        )
        for one in locked
    ]


def _chosen(names: list[str] | None) -> list[Image]:
    """The rows of these names, or all of them."""
    from speculators.errors import RecipeError
    from speculators.executors.images import load_images
    from speculators.recipe.suggestions import did_you_mean

    rows = load_images().images
    for name in names or ():
        if name not in rows:
            hint = did_you_mean(name, rows) or f"there are {', '.join(rows)}"
            raise RecipeError(f"there is no image '{name}'", hint=hint, rule="unknown-images")
    return [rows[name] for name in names or rows]


def _listing(rows: dict[str, Image], found: dict[str, Found | None] | None) -> list[str]:
    """The table: a heading and a line an image."""
    from speculators.quantities import size

    cells = [("NAME", "DEVICE", "VLLM", "PINNED", "HERE", "REFERENCE")]
    for name, image in rows.items():
        here = "?" if found is None else "no"
        if found and (present := found[name]):
            here = size(present.size)
        pinned = "by digest" if image.digest else "by the lock"
        cells.append((name, image.device, image.vllm, pinned, here, image.reference))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]) for row in cells]


def _row(image: Image, found: dict[str, Found] | dict[str, Found | None] | None) -> dict[str, Any]:
    row = {
        "reference": image.reference,
        "digest": image.digest or None,
        "vllm": image.vllm,
        "device": image.device,
        "platforms": list(image.platforms),
    }
    present = found[image.name] if found else None
    return row | {"present": None if found is None else present is not None} | (_facts(present))


def _facts(found: Found | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {"id": found.id, "contents": found.contents, "platform": found.platform, "size": found.size}


def _show(verdicts: list[Verdict]) -> None:
    width = max(len(verdict.image) for verdict in verdicts)
    for verdict in verdicts:
        typer.echo(f"{verdict.image:<{width}}  {verdict.state:<7}  {verdict.detail}")
        if verdict.mend:
            typer.echo(f"      = help: {verdict.mend}")


def _exit_code(verdicts: list[Verdict], named: bool) -> int:
    """2 before 4: what differs is worse than what is not there.

    An image that nobody named and that is not here is no fault, unless none is here at all.
    """
    from speculators.errors import MachineError, RecipeError
    from speculators.executors.image_check import ABSENT, DIFFERS

    states = [verdict.state for verdict in verdicts]
    if DIFFERS in states:
        return RecipeError.exit_code
    absent = ABSENT in states if named else set(states) == {ABSENT}
    return MachineError.exit_code if absent else 0


def _tell(line: str) -> None:
    typer.echo(line, err=True)
