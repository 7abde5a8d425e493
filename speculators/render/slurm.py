"""Jobs as Slurm batch scripts that run in Apptainer.  Pure.

Every value reaches the shell quoted, and what is inside a container is told by ``APPTAINERENV_`` variables:
other users of a node can read a command line, but not an environment.
"""

from __future__ import annotations

import shlex

from speculators.errors import RecipeError
from speculators.recipe.recipe import Recipe
from speculators.render.jobs import (
    ASSUMPTIONS,
    PACKAGE_NAME,
    RUNS_NAME,
    Job,
    Options,
    require_plain,
    uses_hub,
)

SUBMIT_NAME = "submit.sh"
SHEBANG = "#!/usr/bin/env bash"
INSIDE = "/opt/speculators"
HOME_INSIDE = "/home/speculators"
#: Seconds before the time limit at which a stage is asked to save its place; it may take 30 for it.
WARNING_SECONDS = 120
#: Slurm reads a number of minutes.
MINUTE = 60


def scripts(recipe: Recipe, jobs: list[Job], options: Options) -> dict[str, str]:
    """The job folder's scripts by their name.

    Raises:
        RecipeError: the partition's name is none, or a folder is not named from the root.
    """
    require_plain("--partition", options.partition)
    require_absolute("--home", options.home)
    require_absolute("--hub", options.hub)
    named = {f"{number}-{job.stage}.sbatch": job for number, job in enumerate(jobs, start=1)}
    texts = {name: batch_script(recipe, job, options) for name, job in named.items()}
    return {**texts, SUBMIT_NAME: submit_script(recipe, named)}


def batch_script(recipe: Recipe, job: Job, options: Options) -> str:
    """One stage."""
    hub = uses_hub(recipe)
    lines = [
        SHEBANG,
        f"# Stage '{job.stage}' of the recipe '{recipe.name}', written by `speculators render`.",
        "# submit.sh starts it, after it has fetched the image by its digest:",
        f"# docker://{job.image}",
        "#",
        *(f"# {line}" for line in ASSUMPTIONS),
        *directives(recipe, job, options),
        "set -euo pipefail",
        'cd -- "${SLURM_SUBMIT_DIR:?start this with submit.sh}"',
        "",
        f"store={default(options.home, '${SPECULATORS_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/speculators}')}",
        *([f"hub={default(options.hub, DEFAULT_HUB)}"] if hub else []),
        f'if [[ "$PWD$store{"$hub" if hub else ""}" == *[:,]* ]]; then',
        "  echo 'a folder with : or , in its name cannot be bound into a container' >&2",
        "  exit 2",
        "fi",
        'mkdir -p -- "$store/home"',
        "",
        *(f"export APPTAINERENV_{name}={shlex.quote(value)}" for name, value in job.environment.items()),
        f"export APPTAINERENV_PYTHONPATH={INSIDE}",
        'export APPTAINERENV_SPECULATORS_HOME="$store"',
        *(['export APPTAINERENV_HF_HUB_CACHE="$hub"'] if hub else []),
        *(secret_line(name) for name in recipe.data["container"]["secrets"]),
        "",
        # The batch script becomes the container: Slurm's signals reach it.
        f"exec apptainer exec {'--nv ' if job.gpus else ''}--cleanenv \\",
        f'  --home "$store/home:{HOME_INSIDE}" --pwd "$PWD" --bind "$PWD" --bind "$store" \\',
        f'  --bind "$PWD/{PACKAGE_NAME}:{INSIDE}:ro" {HUB_BIND if hub else ""}\\',
        f"  {shlex.quote(image_file(job))} \\",
        f"  {shlex.join(job.argv)}",
    ]
    return "\n".join(lines) + "\n"


DEFAULT_HUB = "${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}"
HUB_BIND = '--bind "$hub:$hub:ro" '


def directives(recipe: Recipe, job: Job, options: Options) -> list[str]:
    """What the job asks Slurm for; what nobody named is the site's to choose."""
    container = recipe.data["container"]
    limit = container["time_limit"]
    asked = {
        "job-name": f"{recipe.name}-{job.stage}",
        "partition": options.partition,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": options.cpus,
        "gpus-per-node": job.gpus,
        "mem": container["memory"],
        "time": limit and -(-limit // MINUTE),
        "output": "logs/%x-%j.log",
        "open-mode": "append",
        "signal": f"B:TERM@{WARNING_SECONDS}",
    }
    return [*(f"#SBATCH --{name}={value}" for name, value in asked.items() if value), "#SBATCH --requeue"]


def require_absolute(flag: str, folder: str) -> None:
    if folder and not folder.startswith("/"):
        raise RecipeError(
            f"{flag}: '{folder}' depends on where a job runs", hint="name it from the root /", rule="usage"
        )


def default(given: str, otherwise: str) -> str:
    return shlex.quote(given) if given else f'"{otherwise}"'


def secret_line(name: str) -> str:
    return f'export APPTAINERENV_{name}="${{{name}:?export it where you submit}}"'


def image_file(job: Job) -> str:
    _, _, digest = job.image.partition("@sha256:")
    return f"images/{digest}.sif"


def submit_script(recipe: Recipe, named: dict[str, Job]) -> str:
    """Fetches the images and queues the jobs, each behind the one before it."""
    images = dict.fromkeys((image_file(job), f"docker://{job.image}") for job in named.values())
    lines = [
        SHEBANG,
        f"# Queues the stages of the recipe '{recipe.name}', each after the one before it has ended well.",
        "# Arguments go to every sbatch:  ./submit.sh --account=NAME --constraint=GPU",
        "#",
        "# Run it on a node that reaches the registry: images are fetched here, once, by digest, because",
        "# compute nodes often have no way out.  This folder and the store must be on a file system that all",
        "# nodes share, and all jobs on one kind of processor: outputs depend on it.",
        "# The same command again continues: finished stages are found in the store.",
        "set -euo pipefail",
        'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"',
        f"mkdir -p images logs {RUNS_NAME}",
        "",
        "fetch() {  # a fetch that was cut short leaves no image",
        '  if [[ ! -f $1 ]]; then apptainer pull --force "$1.partial" "$2"; mv -- "$1.partial" "$1"; fi',
        "}",
        *(f"fetch {shlex.quote(file)} {shlex.quote(address)}" for file, address in images),
        "",
    ]
    after = ""
    for name, job in named.items():
        lines.append(f'job=$(sbatch --parsable {after}"$@" {shlex.quote(name)})')
        lines.append(f'echo "{job.stage}: job ${{job%%;*}}"')
        after = '--kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" '
    return "\n".join(lines) + "\n"
