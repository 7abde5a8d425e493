"""``speculators render``: a recipe as jobs for a cluster without a container engine of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speculators.cli.options import AllowUntested, ImageOverrides, Overrides, RecipePath, load, wanted_of

#: Which options speak to which cluster; the others are common.
SPOKEN_TO = {"sbatch": ("partition", "home", "hub"), "k8s": ("claim", "namespace", "secret")}


def render(
    recipe: RecipePath,
    to: Annotated[
        str, typer.Option("--to", metavar="sbatch|k8s", help="Slurm scripts, or a Kubernetes Job.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="The job folder; by default NAME-sbatch or NAME-k8s."),
    ] = None,
    overrides: Overrides = None,
    image: ImageOverrides = None,
    allow_untested: AllowUntested = False,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="Processors of each job.")] = 8,
    partition: Annotated[str, typer.Option("--partition", help="Slurm: the partition.")] = "",
    home: Annotated[
        str, typer.Option("--home", metavar="PATH", help="Slurm: the store, on a shared file system.")
    ] = "",
    hub: Annotated[
        str, typer.Option("--hub", metavar="PATH", help="Slurm: the hub's cache, on a shared file system.")
    ] = "",
    claim: Annotated[
        str, typer.Option("--claim", metavar="NAME", help="Kubernetes: volume claim of store, hub and runs.")
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Kubernetes: namespace.")
    ] = "",
    secret: Annotated[
        str,
        typer.Option("--secret", metavar="NAME", help="Kubernetes: the Secret with the recipe's secrets."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Write a recipe as Slurm scripts (Apptainer) or a Kubernetes Job.

    One job a stage, in the same images by the same digests. The folder holds recipe, lock, prompts,
    models and this project's code: copy it to the cluster, run submit.sh there.

    \b
    Examples:
      speculators render my.yaml --to sbatch --set container.gpus=1 --partition gpu
      speculators render my.yaml --to k8s --claim speculators --namespace models
      speculators render my.yaml --to k8s --claim x --allow-untested --image bench=me/b@sha256:...
    """
    given = {"partition": partition, "home": home, "hub": hub}
    given |= {"claim": claim, "namespace": namespace, "secret": secret}
    refuse_misplaced(to, given)
    loaded = load(recipe, overrides)
    if loaded is None:
        return 2
    from speculators.pipeline.store import default_home
    from speculators.render import folder, locked
    from speculators.render.jobs import Options

    pins = locked.held(loaded, default_home())
    images = locked.job_images(loaded, wanted_of(image, allow_untested), pins)
    options = Options(cpus, **{name: value for name, value in given.items() if value})
    rendering = folder.render(loaded, to, images, options, pins)
    place = output or Path(f"{loaded.name}-{to}")
    folder.write(rendering, place)
    if as_json:
        typer.echo(json.dumps({**rendering.document, "folder": str(place)}, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{place}: {len(rendering.document['jobs'])} stages; on the cluster, run submit.sh in it")
    return 0


def refuse_misplaced(to: str, given: dict[str, str]) -> None:
    """Stop at an unknown cluster, or at an option that the chosen one would ignore."""
    from speculators.errors import RecipeError
    from speculators.recipe.suggestions import did_you_mean

    if to not in SPOKEN_TO:
        hint = did_you_mean(to, list(SPOKEN_TO)) or f"there are {', '.join(SPOKEN_TO)}"
        raise RecipeError(f"--to {to}: no such cluster", hint=hint, rule="usage")
    if misplaced := [name for name, value in given.items() if value and name not in SPOKEN_TO[to]]:
        flags = ", ".join(f"--{name}" for name in misplaced)
        raise RecipeError(f"--to {to} has no use for {flags}", hint="leave it out", rule="usage")
