"""A whole recipe in containers, with the real engine, vLLM and GuideLLM: the same as in this environment."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from speculators.documents import read_json, read_jsonl
from speculators.executors.engine import LABEL, connect
from speculators.executors.images import load_images
from speculators.pipeline.locking import lock_path
from speculators.pipeline.store import Store
from tests.engine.archive import Built
from tests.engine.daemon import client
from tests.faults.world import World, write_world
from tests.needs import needing

pytestmark = [
    pytest.mark.integration,
    needing("vllm", "guidellm"),
]

LARGEST_DIFFERENCE = 1e-5
CHECKOUT = Path(__file__).parents[2]


class Finished(NamedTuple):
    """The same world after a run here, and after a run in containers."""

    here: Path
    inside: Path
    engine: str


@pytest.fixture(scope="module")
def finished(engine: str, whole_image: Built, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    name, _, tag = load_images().images["cpu"].reference.partition(":")
    with closing(client(engine)) as docker:
        docker.api.tag(whole_image.reference, name, tag, force=True)
    places = {}
    for executor in ("local", "docker"):
        world = write_world(tmp_path_factory.mktemp(executor) / "world", rounds=1)
        command = ["run", world.recipe.name, "--executor", executor, "--progress", "plain"]
        done = speculators(world, engine, *command)
        assert done.returncode == 0, done.stdout + done.stderr
        places[executor] = world.folder
    return Finished(places["local"], places["docker"], engine)


def speculators(world: World, engine: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = world.environment() | {"DOCKER_HOST": engine, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, "-m", "speculators", *words],
        cwd=world.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def output_of(folder: Path, stage: str) -> Path:
    (kept,) = Store(folder / "home").history(stage)
    return kept.path


def losses(folder: Path) -> list[float]:
    rows = read_jsonl(output_of(folder, "training") / "metrics.jsonl")
    return [row["loss"] for row in rows if "loss" in row]


def test_the_generated_tokens_are_the_same(finished: Finished):
    shards = [sorted(output_of(folder, "responses").rglob("*.jsonl")) for folder in finished[:2]]
    assert len(shards[0]) == len(shards[1]) > 1
    for here, inside in zip(*shards, strict=True):
        assert here.read_bytes() == inside.read_bytes()


def test_the_training_losses_are_the_same(finished: Finished):
    here, inside = losses(finished.here), losses(finished.inside)
    assert len(here) == len(inside) > 10
    assert max(abs(one - other) for one, other in zip(here, inside, strict=True)) <= LARGEST_DIFFERENCE


def test_the_record_names_the_images_and_no_container_is_left(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    latest = finished.inside / "runs" / "faults" / "latest"
    record = read_json(latest / "run.json")
    assert record["executor"] == "docker"
    assert set(record["images"]) == {"engine", "trainer", "bench"}
    assert record["images"]["engine"]["digest"].startswith("sha256:")
    assert "guidellm" in record["images"]["bench"]["packages"]
    assert "sha256:" in (latest / "lock.yaml").read_text(encoding="utf-8")
    assert (latest / "report.md").is_file()
    asked = read_json(latest / "stages" / "training" / "container.json")["body"]
    assert asked["HostConfig"]["ReadonlyRootfs"]
    monkeypatch.setenv("DOCKER_HOST", finished.engine)
    assert connect().client.api.containers(all=True, filters={"label": LABEL}) == []


def test_what_was_made_in_one_place_is_not_reused_in_the_other(finished: Finished):
    """Equal bytes come out, but nobody can promise that of other packages: the keys differ."""
    assert output_of(finished.here, "training").name != output_of(finished.inside, "training").name


def test_planning_again_reuses_every_stage_and_needs_no_engine_once_it_is_locked(finished: Finished):
    world = World(finished.inside, 1)
    locked = speculators(world, finished.engine, "lock", "faults.yaml", "--executor", "docker")
    assert locked.returncode == 0, locked.stderr
    assert "images:" in lock_path(world.recipe).read_text(encoding="utf-8")
    words = ("plan", "faults.yaml", "--executor", "docker", "--detailed-exitcode")
    planned = speculators(world, "unix:///no/such.sock", *words)
    assert planned.returncode == 0, planned.stdout + planned.stderr


def test_another_image_under_the_locked_name_does_not_start(finished: Finished, python_image: Built):
    world = World(finished.inside, 1)
    assert speculators(world, finished.engine, "lock", "faults.yaml", "--executor", "docker").returncode == 0
    name, _, tag = load_images().images["cpu"].reference.partition(":")
    with closing(client(finished.engine)) as docker:
        before = docker.api.inspect_image(f"{name}:{tag}")["Id"]
        docker.api.tag(python_image.reference, name, tag, force=True)
        try:
            done = speculators(world, finished.engine, "run", "faults.yaml", "--executor", "docker")
        finally:
            docker.api.tag(before, name, tag, force=True)
    assert done.returncode == 2, done.stderr
    assert "is not the image of the lock" in done.stderr
    assert os.fspath(finished.inside) not in done.stdout
