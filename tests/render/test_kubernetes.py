"""The Kubernetes Job: golden manifests, the published schemas, and submit.sh with a stand-in for kubectl."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from speculators.errors import RecipeError
from speculators.recipe.recipe import require_recipe
from speculators.render import kubernetes
from speculators.render.jobs import Options, jobs_of
from tests.render.rendered import SMOLLM, compare_golden, cpu_images, cuda_images, on_gpus, stand_in

GOLDEN = Path(__file__).parent / "golden" / "k8s"
OPTIONS = Options(claim="models", namespace="research")
#: The oldest in which all that the Job uses is stable, and the newest that the validator knows.
VERSIONS = ("1.31", "1.37")


def manifests(options: Options = OPTIONS, *settings: str) -> dict[str, str]:
    recipe = on_gpus(*settings)
    return kubernetes.manifests(recipe, jobs_of(recipe, cuda_images()), options)


def job(options: Options = OPTIONS, *settings: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(manifests(options, *settings)["job.yaml"])
    return document


def pod(*settings: str) -> dict[str, Any]:
    found: dict[str, Any] = job(OPTIONS, *settings)["spec"]["template"]["spec"]
    return found


def test_the_manifests_are_the_golden_ones() -> None:
    compare_golden(GOLDEN, manifests())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [OPTIONS, Options(claim="c")])
def test_the_manifests_fit_the_published_schemas(version: str, options: Options) -> None:
    documents = [yaml.safe_load(text) for name, text in manifests(options).items() if name.endswith(".yaml")]
    recipe = require_recipe(SMOLLM)
    small = kubernetes.manifests(recipe, jobs_of(recipe, cpu_images()), options)
    documents.append(yaml.safe_load(small["job.yaml"]))
    assert {one["kind"] for one in documents} == {"Job", "NetworkPolicy", "Pod"}
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_refuses_what_is_wrong() -> None:
    wrong = job()
    wrong["spec"]["template"]["spec"]["initContainers"][0]["envs"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_stages_run_in_order_before_the_benchmark_each_in_its_image() -> None:
    spec = pod()
    order = [*spec["initContainers"], *spec["containers"]]
    assert [one["command"][6] for one in order] == [
        "verifier",
        "prompts",
        "responses",
        "hidden_states",
        "training",
        "package",
        "benchmark",
    ]
    assert len({one["image"] for one in order}) == 3
    assert spec["containers"][0]["image"].startswith("registry.example/b@")
    gpus = [one["resources"]["limits"].get("nvidia.com/gpu") for one in order]
    assert gpus == [None, "2", "2", "2", "2", None, "2"]


def test_containers_have_no_privileges_and_write_to_three_places_only() -> None:
    for one in [*pod()["initContainers"], *pod()["containers"]]:
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["securityContext"]["readOnlyRootFilesystem"]
        writable = [mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["/job/runs", "/store", "/tmp", "/dev/shm"]


def test_a_secret_is_named_and_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    texts = manifests(OPTIONS._replace(secret="tokens"))
    assert "hush" not in "".join(texts.values())
    (reference,) = [entry for entry in pod()["containers"][0]["env"] if "valueFrom" in entry]
    assert reference["valueFrom"]["secretKeyRef"] == {"name": "speculators", "key": "HF_TOKEN"}


def test_sizes_are_powers_of_1024_and_the_limits_of_all_stages_add_up() -> None:
    assert pod()["containers"][0]["resources"]["limits"]["memory"] == "64Gi"
    assert pod()["volumes"][2]["emptyDir"]["sizeLimit"] == "2Gi"
    assert job()["spec"]["activeDeadlineSeconds"] == 86399 * 7
    assert "activeDeadlineSeconds" not in job(OPTIONS, "container.time_limit=null")["spec"]


@pytest.mark.parametrize("name", ["qwen3.8b_eagle", "a" * 100, "x-"])
def test_every_recipe_name_becomes_a_name_in_kubernetes(name: str) -> None:
    documents = [yaml.safe_load(text) for text in list(manifests(OPTIONS, f"name={name}").values())[:3]]
    for document in documents:
        kubernetes.require_label("name", document["metadata"]["name"])
        for value in document["metadata"]["labels"].values():
            assert len(value) <= 63
    names = {kubernetes.slug(one) for one in (name, name + ".", name + "_", name[:-1])}
    assert len(names) == 4


@pytest.mark.parametrize(
    "options",
    [Options(), Options(claim="My_Claim"), Options(claim="c", namespace="a b"), Options(claim="c" * 64)],
)
def test_options_that_kubernetes_refuses_are_refused_here(options: Options) -> None:
    with pytest.raises(RecipeError) as caught:
        manifests(options)
    assert caught.value.rule == "usage"


#: ``exec`` unpacks into the folder that stands for the claim; everything else is written down.
KUBECTL = """
echo "$*" >> "$SEEN/calls"
for word in "$@"; do last=$word; done
case "$*" in *exec*) sh -c "${last//\\/job/$SEEN/claim}" ;; esac
"""


@pytest.mark.parametrize("lock", [[], ["recipe.lock.yaml"]])
def test_submit_copies_the_folder_and_starts_the_job_once_the_loader_is_gone(
    tmp_path: Path, lock: list[str]
) -> None:
    folder = tmp_path / "job folder"
    for name in ("files", "package"):
        (folder / name).mkdir(parents=True)
        (folder / name / "new").write_text(name)
    for name in ("recipe.yaml", *lock):
        (folder / name).write_text("name: x")
    (folder / "submit.sh").write_text(manifests()["submit.sh"])
    (tmp_path / "claim" / "package").mkdir(parents=True)
    for name in ("package/stale", "recipe.lock.yaml"):
        (tmp_path / "claim" / name).write_text("of an earlier rendering")
    stand_in(tmp_path / "bin", "kubectl", KUBECTL)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SEEN": str(tmp_path)}
    command = ["bash", str(folder / "submit.sh"), "--context=here"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = sorted(str(path.relative_to(tmp_path / "claim")) for path in (tmp_path / "claim").rglob("*"))
    assert found == ["files", "files/new", "package", "package/new", *lock, "recipe.yaml", "runs"]
    assert all((tmp_path / "claim" / name).read_text() == "name: x" for name in lock)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all(call.startswith("--namespace=research --context=here ") for call in calls if call[0] == "-")
    verbs = [call.split()[2:4] for call in calls if call.startswith("--namespace")]
    assert verbs == [
        ["apply", "--filename=loader.yaml"],
        ["wait", "--for=condition=Ready"],
        ["exec", "--stdin"],
        ["delete", "--filename=loader.yaml"],
        ["apply", "--filename=network-policy.yaml"],
        ["create", "--filename=job.yaml"],
        ["delete", "--filename=loader.yaml"],
    ]
