"""What engines and registries say is told as whose fault it is, in whatever pieces they say it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.errors import MachineError, RecipeError, SpeculatorsError, StageError
from speculators.executors.image_build import BuildLog, build_failure
from speculators.executors.image_store import pull_failure
from speculators.executors.images import load_images

REFERENCE = "registry.example/engine@sha256:" + "0" * 64
OUTPUT = """Step 1/2 : FROM ${BASE}
 ---> 0123456789ab
Step 2/2 : RUN echo
 ---> Running in 43acb48630c5
\x1b[91mno space: \x1b[0mtry again

Removing intermediate container 43acb48630c5
"""


@pytest.mark.parametrize(
    ("said", "error", "rule"),
    [
        (
            'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
            MachineError,
            "registry",
        ),
        ('Get "https://registry.example/v2/": dial tcp: lookup: no such host', MachineError, "registry"),
        (
            "initializing source docker://x: pinging container registry 127.0.0.1:1: EOF",
            MachineError,
            "registry",
        ),
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            MachineError,
            "registry",
        ),
        ("manifest for x not found: manifest unknown: manifest unknown", RecipeError, "unknown-images"),
        ("write /var/lib/docker/tmp/x: no space left on device", MachineError, "storage"),
        ("failed to register layer: the moon is full", StageError, "engine"),
    ],
)
def test_why_an_image_did_not_come(said: str, error: type[SpeculatorsError], rule: str) -> None:
    failure = pull_failure(REFERENCE, said)
    assert type(failure) is error
    assert failure.rule == rule
    assert said in failure.message
    assert REFERENCE in failure.message


@pytest.mark.parametrize(
    ("step", "said", "error"),
    [
        ("", "manifest unknown", RecipeError),
        ("Step 2/9 : FROM ${BASE}", "dial tcp: connection refused", MachineError),
        # A package index that does not answer is no registry: the step's own lines say it.
        ("Step 3/9 : RUN pip install x", "returned a non-zero code: 1 (dial tcp)", StageError),
        ("Step 3/9 : RUN pip install x", "no space left on device", MachineError),
    ],
)
def test_why_a_build_ended(step: str, said: str, error: type[SpeculatorsError]) -> None:
    assert type(build_failure(load_images().images["cpu"], REFERENCE, step, ["last"], said)) is error


@given(st.lists(st.integers(0, len(OUTPUT)), max_size=8))
def test_a_builds_lines_do_not_depend_on_the_pieces_they_come_in(cuts: list[int]) -> None:
    told: list[str] = []
    log = BuildLog(told.append)
    places = [0, *sorted(cuts), len(OUTPUT)]
    for start, end in pairwise(places):
        log.add(OUTPUT[start:end])
    assert log.step == "Step 2/2 : RUN echo"
    assert list(log.lines) == ["no space: try again"]
    assert len(told) == 6
