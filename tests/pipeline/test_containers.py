"""A published run, made here, once more in containers: with the real engine, vLLM and GuideLLM.

One run is two proofs: that a bundle is repeated from its file alone, and that containers give what this
environment gives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from speculators.bundle.homes import homes_below
from speculators.documents import read_json, read_jsonl
from speculators.executors.engine import LABEL, connect
from speculators.executors.images import load_images
from speculators.pipeline.locking import lock_path
from tests.engine.archive import Built
from tests.engine.daemon import client
from tests.faults.world import BUILD, World
from tests.needs import needing

pytestmark = [pytest.mark.integration, needing("vllm", "guidellm")]

LARGEST_DIFFERENCE = 1e-5
CHECKOUT = Path(__file__).parents[2]
NO_ENGINE = "unix:///no/such.sock"


class Place(NamedTuple):
    """A folder to give commands in, with the engine that they find and the home that they use."""

    folder: Path
    engine: str
    home: Path

    def speculators(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "DOCKER_HOST": self.engine,
            "PYTHONPATH": str(CHECKOUT),
            "SPECULATORS_HOME": str(self.home),
        }
        return subprocess.run(
            [sys.executable, "-m", "speculators", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


class Repeated(NamedTuple):
    """The published run's folder, that of its repeat, what was said of the two, and where that was."""

    published: Path
    run: Path
    verdict: dict[str, Any]
    place: Place


@pytest.fixture(scope="module")
def repeated(
    engine: str, whole_image: str, undisturbed: World, tmp_path_factory: pytest.TempPathFactory
) -> Repeated:
    with closing(client(engine)) as docker:
        docker.api.tag(whole_image, *cpu_image(), force=True)
    published = undisturbed.folder / "runs" / "faults" / "latest"
    folder = tmp_path_factory.mktemp("repeated")
    place = Place(folder, engine, folder / "home")
    bundle = folder / "published.speculators.tar"
    packed = place.speculators("bundle", str(published), "--output", str(bundle))
    assert packed.returncode == 0, packed.stderr
    model = f"verifier.path={undisturbed.folder / 'model'}"  # which no bundle holds
    done = place.speculators("run", str(bundle), "--set", model, "--executor", "docker", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return Repeated(published, folder / "runs" / "faults" / "latest", json.loads(done.stdout), place)


@pytest.fixture(scope="module")
def world(repeated: Repeated, undisturbed: World, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The recipe as it was written, with nothing made of it but in the repeat's home."""
    folder = tmp_path_factory.mktemp("world") / "world"
    shutil.copytree(undisturbed.folder, folder, ignore=shutil.ignore_patterns("home", "runs", "*.lock.yaml"))
    (home,) = homes_below(repeated.place.folder / "runs")
    return Place(folder, repeated.place.engine, home)


def cpu_image() -> tuple[str, str]:
    name, _, tag = load_images().images["cpu"].reference.partition(":")
    return name, tag


def losses(run: Path) -> list[float]:
    rows = read_jsonl(run / "stages" / "training" / "metrics.jsonl")
    return [row["loss"] for row in rows if "loss" in row]


def test_the_generated_tokens_are_the_same(repeated: Repeated):
    here, inside = (
        {
            name: sealed["sha256"]
            for name, sealed in read_json(run / "stages" / "responses" / "output.json")["files"].items()
            if name.endswith(".jsonl")
        }
        for run in (repeated.published, repeated.run)
    )
    assert here == inside
    assert len(here) > 1


def test_the_training_losses_are_the_same(repeated: Repeated):
    here, inside = losses(repeated.published), losses(repeated.run)
    assert len(here) == len(inside) > 10
    assert max(abs(one - other) for one, other in zip(here, inside, strict=True)) <= LARGEST_DIFFERENCE


def test_the_verdict_says_what_is_equal_and_why_the_speed_is_not_compared(repeated: Repeated):
    verdict = repeated.verdict
    assert verdict["verdict"] == "not comparable"
    assert any(
        reason.startswith("image engine: none was published") for reason in verdict["measurement"]["reasons"]
    )
    made = {one["stage"]: one for one in verdict["artefacts"]["stages"]}
    assert set(made) == set(BUILD)
    assert all(one["made"] for one in made.values())
    assert read_json(repeated.run / "repeat.json")["published"] == repeated.published.resolve().name


def test_the_record_names_the_images_and_no_container_is_left(
    repeated: Repeated, monkeypatch: pytest.MonkeyPatch
):
    record = read_json(repeated.run / "run.json")
    assert record["executor"] == "docker"
    assert set(record["images"]) == {"engine", "trainer", "bench"}
    assert record["images"]["engine"]["digest"].startswith("sha256:")
    assert record["images"]["engine"]["tested"]
    assert "guidellm" in record["images"]["bench"]["packages"]
    assert "sha256:" in (repeated.run / "lock.yaml").read_text(encoding="utf-8")
    assert (repeated.run / "report.md").is_file()
    asked = read_json(repeated.run / "stages" / "training" / "container.json")["body"]
    assert asked["HostConfig"]["ReadonlyRootfs"]
    monkeypatch.setenv("DOCKER_HOST", repeated.place.engine)
    assert connect().client.api.containers(all=True, filters={"label": LABEL}) == []


def test_what_was_made_in_one_place_is_not_reused_in_the_other(repeated: Repeated):
    """Equal bytes come out, but nobody can promise that of other packages: the keys differ."""
    keys = [
        {stage["name"]: stage["key"] for stage in read_json(run / "run.json")["stages"] if "key" in stage}
        for run in (repeated.published, repeated.run)
    ]
    assert not set(keys[0].values()) & set(keys[1].values())
    assert keys[0].keys() == keys[1].keys() >= set(BUILD)


def test_once_it_is_locked_a_plan_finds_what_the_run_made_without_an_engine(world: Place):
    locked = world.speculators("lock", "faults.yaml", "--executor", "docker")
    assert locked.returncode == 0, locked.stderr
    assert "images:" in lock_path(world.folder / "faults.yaml").read_text(encoding="utf-8")
    # Of a finished repeat the verifier alone stays.
    words = ("plan", "faults.yaml", "--executor", "docker", "--only", "verifier", "--detailed-exitcode")
    planned = world._replace(engine=NO_ENGINE).speculators(*words)
    assert planned.returncode == 0, planned.stdout + planned.stderr


def test_another_image_under_the_locked_name_is_found_and_does_not_start(world: Place, python_image: Built):
    assert world.speculators("lock", "faults.yaml", "--executor", "docker").returncode == 0
    verified = world.speculators("images", "verify", "--recipe", "faults.yaml")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    with under_the_name(world.engine, python_image):
        verified = world.speculators("images", "verify", "--recipe", "faults.yaml")
        done = world.speculators("run", "faults.yaml", "--executor", "docker")
    for ended, said in ((verified, verified.stdout), (done, done.stderr)):
        assert ended.returncode == 2, ended.stderr
        assert "is not the image of the lock" in said


@contextmanager
def under_the_name(engine: str, other: Built) -> Iterator[None]:
    """For the block ``other`` has the name of the CPU image."""
    with closing(client(engine)) as docker:
        before = docker.api.inspect_image(":".join(cpu_image()))["Id"]
        docker.api.tag(other.reference, *cpu_image(), force=True)
        try:
            yield
        finally:
            docker.api.tag(before, *cpu_image(), force=True)
