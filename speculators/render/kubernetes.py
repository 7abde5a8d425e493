"""Jobs as one Kubernetes Job: a stage is an init container, the benchmark the container after them.  Pure.

Init containers run one after another, each in its own image and to a good end before the next one starts,
which is a plan's order without a controller of ours.  One pod also means one node: every stage sees the
same processor and the same GPUs.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from speculators.documents import value_digest
from speculators.errors import EXIT_BUG, MachineError, RecipeError, StageError
from speculators.recipe.recipe import Recipe
from speculators.recipe.yaml_writer import dump_yaml
from speculators.render.jobs import ASSUMPTIONS, LOCK_NAME, Job, Options, uses_hub

SUBMIT_NAME = "submit.sh"
JOB_NAME = "job.yaml"
LOADER_NAME = "loader.yaml"
POLICY_NAME = "network-policy.yaml"
#: Where a container sees what, by the folder of the claim.
JOB, STORE, RUNS, HUB = "/job", "/store", "/job/runs", "/hub"
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
LABEL_LENGTH = 63
#: Room in a label for a prefix, a pod's suffix and a digest.
SLUG_LENGTH = 36
#: A stage may take 30 seconds to save its place, its servers 10 to end.
GRACE_SECONDS = 60
#: Trying again helps neither a wrong recipe, nor a failed stage, nor a lacking machine, nor our bug.
HOPELESS = [RecipeError.exit_code, StageError.exit_code, MachineError.exit_code, EXIT_BUG]
UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def manifests(recipe: Recipe, jobs: list[Job], options: Options) -> dict[str, str]:
    """The job folder's manifests and script by their name.

    Raises:
        RecipeError: there is no claim, or a name is one that Kubernetes refuses.
    """
    if not options.claim:
        raise RecipeError(
            "Kubernetes needs a volume that keeps store, models and runs",
            hint="name a PersistentVolumeClaim: --claim NAME",
            rule="usage",
        )
    for flag, value in {
        "--claim": options.claim,
        "--namespace": options.namespace,
        "--secret": options.secret,
    }.items():
        require_label(flag, value)
    header = [f"The recipe '{recipe.name}', written by `speculators render`; submit.sh starts it."]
    return {
        JOB_NAME: commented([*header, *JOB_NOTES, *ASSUMPTIONS], job_manifest(recipe, jobs, options)),
        POLICY_NAME: commented([*header, *POLICY_NOTES], policy_manifest(recipe, options)),
        LOADER_NAME: commented([*header, *LOADER_NOTES], loader_manifest(recipe, jobs[-1].image, options)),
        SUBMIT_NAME: submit_script(recipe, options),
    }


JOB_NOTES = (
    "Stages are init containers: they run in this order, each after the one before it has ended well.",
    "A pod that is evicted is replaced and continues; a stage that fails ends the job.  To go on then:",
    "delete the job and start it again; finished stages are found in the store.",
)
POLICY_NOTES = ("No stage needs the network: models come from the claim.",)
LOADER_NOTES = ("A pod that only waits, to copy this folder into the claim through it.",)


def require_label(flag: str, value: str) -> None:
    if value and not (LABEL.fullmatch(value) and len(value) <= LABEL_LENGTH):
        raise RecipeError(
            f"{flag}: '{value}' is no name in Kubernetes",
            hint=f"small letters, digits and '-', at most {LABEL_LENGTH}, letters or digits at both ends",
            rule="usage",
        )


def slug(name: str) -> str:
    """``name`` as a label; one that had to be changed gets a digest, so that no two names meet."""
    plain = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:SLUG_LENGTH].strip("-")
    return plain if plain == name else f"{plain}-{value_digest(name)[:6]}"


def job_name(recipe: Recipe) -> str:
    return f"speculators-{slug(recipe.name)}"


def metadata(recipe: Recipe, options: Options, suffix: str = "") -> dict[str, Any]:
    named = {"name": job_name(recipe) + suffix}
    if options.namespace:
        named["namespace"] = options.namespace
    return {**named, "labels": labels(recipe)}


def labels(recipe: Recipe) -> dict[str, str]:
    return {"app.kubernetes.io/name": "speculators", "app.kubernetes.io/instance": slug(recipe.name)}


def job_manifest(recipe: Recipe, jobs: list[Job], options: Options) -> dict[str, Any]:
    """The Job."""
    containers = [container(recipe, job, options) for job in jobs]
    limit = recipe.data["container"]["time_limit"]
    spec: dict[str, Any] = {
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": HOPELESS}},
            ]
        },
        # The recipe's limit is for a stage; a pod has only one for all of them.
        **({"activeDeadlineSeconds": limit * len(jobs)} if limit else {}),
        "template": {
            "metadata": {"labels": labels(recipe)},
            "spec": {
                **pod_settings(),
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "initContainers": containers[:-1],
                "containers": containers[-1:],
                "volumes": [
                    claim_volume(options),
                    {"name": "scratch", "emptyDir": {}},
                    {
                        "name": "shared-memory",
                        "emptyDir": {
                            "medium": "Memory",
                            "sizeLimit": quantity(recipe.data["container"]["shared_memory"]),
                        },
                    },
                ],
            },
        },
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(recipe, options), "spec": spec}


def pod_settings() -> dict[str, Any]:
    """What the pods have in common: they are nobody in the cluster and do not start twice by themselves."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }


def claim_volume(options: Options) -> dict[str, Any]:
    return {"name": "claim", "persistentVolumeClaim": {"claimName": options.claim}}


def container(recipe: Recipe, job: Job, options: Options) -> dict[str, Any]:
    """One stage."""
    wanted = recipe.data["container"]
    limits: dict[str, str] = {}
    if wanted["memory"]:
        limits["memory"] = quantity(wanted["memory"])
    if job.gpus:
        limits["nvidia.com/gpu"] = str(job.gpus)
    return {
        "name": job.stage.replace("_", "-"),
        "image": job.image,
        "command": list(job.argv),
        "workingDir": JOB,
        "env": environment(recipe, job, options),
        "resources": {"requests": {"cpu": str(options.cpus)}, **({"limits": limits} if limits else {})},
        "securityContext": UNPRIVILEGED,
        "volumeMounts": mounts(recipe),
    }


def environment(recipe: Recipe, job: Job, options: Options) -> list[dict[str, Any]]:
    """Plain values, and references to secrets: never a secret itself."""
    plain = {
        **job.environment,
        "HOME": "/tmp",
        "USER": "speculators",  # torch asks for it, and a foreign user id has no name
        "PYTHONPATH": f"{JOB}/package",
        "SPECULATORS_HOME": STORE,
        **({"HF_HUB_CACHE": HUB} if uses_hub(recipe) else {}),
    }
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": options.secret, "key": name}}}
        for name in recipe.data["container"]["secrets"]
    ]
    return [*({"name": name, "value": value} for name, value in plain.items()), *secret]


def mounts(recipe: Recipe) -> list[dict[str, Any]]:
    """What a stage sees: it can write to the store, the runs and scratch, and to nothing else."""
    job = {"name": "claim", "mountPath": JOB, "subPath": job_folder(recipe), "readOnly": True}
    hub = {"name": "claim", "mountPath": HUB, "subPath": "hub", "readOnly": True}
    return [
        job,
        {"name": "claim", "mountPath": RUNS, "subPath": "runs"},
        {"name": "claim", "mountPath": STORE, "subPath": "store"},
        *([hub] if uses_hub(recipe) else []),
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]


def job_folder(recipe: Recipe) -> str:
    """The job folder's place in the claim."""
    return f"jobs/{slug(recipe.name)}"


def quantity(size: str) -> str:
    """``16G`` -> ``16Gi``: recipe, container engines and Slurm count in powers of 1024."""
    return f"{size[:-1]}{size[-1]}i"


def policy_manifest(recipe: Recipe, options: Options) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(recipe, options),
        "spec": {"podSelector": {"matchLabels": labels(recipe)}, "policyTypes": ["Ingress", "Egress"]},
    }


def loader_manifest(recipe: Recipe, image: str, options: Options) -> dict[str, Any]:
    place = {"name": "claim", "mountPath": JOB, "subPath": job_folder(recipe)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(recipe, options, "-loader"),
        "spec": {
            **pod_settings(),
            "activeDeadlineSeconds": 3600,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "loader",
                    "image": image,
                    "command": ["sleep", "3600"],
                    "securityContext": UNPRIVILEGED,
                    "volumeMounts": [place],
                }
            ],
            "volumes": [claim_volume(options)],
        },
    }


def submit_script(recipe: Recipe, options: Options) -> str:
    """Copies the job folder into the claim and starts the job."""
    loader = shlex.quote(f"{job_name(recipe)}-loader")
    where = f"--namespace={options.namespace} " if options.namespace else ""
    kubectl = f'kubectl {where}"$@"'
    unpack = f"rm -rf {JOB}/files {JOB}/package {JOB}/{LOCK_NAME} && mkdir -p {RUNS} && tar -x -f - -C {JOB}"
    hub = f"'{options.claim}' must hold the models that the recipe names, as a hub cache in its folder hub/."
    lines = [
        "#!/usr/bin/env bash",
        f"# Copies this folder into the claim '{options.claim}' and starts '{recipe.name}' there as a Job.",
        "# Arguments go to every kubectl:  ./submit.sh --context=NAME",
        *([f"# {hub}"] if uses_hub(recipe) else []),
        f"# Results are in the claim's folder runs/{recipe.name}/.",
        "set -euo pipefail",
        'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"',
        "",
        f"{kubectl} apply --filename={LOADER_NAME}",
        f"trap '{kubectl} delete --filename={LOADER_NAME} --ignore-not-found' EXIT",
        f"{kubectl} wait --for=condition=Ready --timeout=30m pod/{loader}",
        "tar -c -f - recipe*.yaml files package |",  # the lock with the recipe, where there is one
        f"  {kubectl} exec --stdin {loader} -- sh -c {shlex.quote(unpack)}",
        "# A volume may be on one node at a time: the loader goes before the job comes.",
        f"{kubectl} delete --filename={LOADER_NAME}",
        f"{kubectl} apply --filename={POLICY_NAME}",
        "# Not apply: beside a job that is there already it would do nothing, and say so quietly.",
        f"{kubectl} create --filename={JOB_NAME}",
    ]
    return "\n".join(lines) + "\n"


def commented(notes: list[str], document: dict[str, Any]) -> str:
    return "".join(f"# {note}\n" for note in notes) + dump_yaml(document)
