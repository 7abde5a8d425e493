"""Where stages run, as keys see it: images by digest, and never the machine's own packages beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.errors import RecipeError
from speculators.pipeline.reasons import differences
from speculators.pipeline.surroundings import HERE, IMAGES_VARIABLE, Surroundings, given
from speculators.recipe.recipe import require_recipe
from speculators.stages.table import PACKAGE, TRAINING, VERIFIER

RECIPE = require_recipe(Path(__file__).parents[2] / "recipes" / "smollm2-135m-eagle3.yaml")
PINS = {"engine": "sha256:e", "trainer": "sha256:t", "bench": "sha256:b"}
WORDS = " ".join(f"{role}=registry.example:5000/{role}@{digest}" for role, digest in PINS.items())


def test_a_key_names_the_image_of_the_stages_role_and_no_package():
    found = Surroundings(PINS).environment(TRAINING)
    assert found["image trainer"] == "sha256:t"
    assert not {"torch", "python", "image engine"} & found.keys()
    assert "torch" in HERE.environment(TRAINING)


def test_gpus_belong_to_the_key_of_the_stages_that_compute():
    with_gpus = Surroundings(PINS, gpus=True)
    assert with_gpus.environment(TRAINING) != Surroundings(PINS).environment(TRAINING)
    assert with_gpus.environment(PACKAGE) == Surroundings(PINS).environment(PACKAGE)


def test_a_model_in_a_package_is_the_images_affair():
    assert "version" in HERE.sources(RECIPE)
    assert Surroundings(PINS).sources(RECIPE) == {}


def test_a_stage_without_a_pin_says_why_it_has_no_key():
    found = Surroundings({**PINS, "trainer": ""}, {"trainer": "x/trainer:1"})
    assert "x/trainer:1 is neither pinned nor in an engine" in found.unknown(VERIFIER)
    assert HERE.unknown(VERIFIER) == ""


def test_an_image_without_a_pin_is_no_reason_of_its_own():
    open_image = Surroundings({**PINS, "trainer": ""}).environment(TRAINING)
    told = differences(
        {"environment": {}},
        {"environment": open_image, "values": {}, "files": {}, "sources": {}, "inputs": {}, "code": {}},
        lambda _: "",
    )
    assert not [reason.text for reason in told if "image" in reason.text]


def test_a_job_of_a_cluster_is_told_all_images():
    assert given(RECIPE, {}) == HERE
    found = given(RECIPE, {IMAGES_VARIABLE: WORDS})
    assert found.pins == PINS
    assert found.names["engine"] == "registry.example:5000/engine@sha256:e"
    assert given(
        RECIPE, {IMAGES_VARIABLE: WORDS.replace("registry.example:5000/trainer@sha256:t", "")}
    ).pins == {
        **PINS,
        "trainer": "",
    }


@pytest.mark.parametrize(
    "text", ["engine", "engine=x", WORDS + " other=y", WORDS.replace("bench=", "bench"), "="]
)
def test_a_broken_list_of_images_is_named(text: str):
    with pytest.raises(RecipeError, match=IMAGES_VARIABLE) as caught:
        given(RECIPE, {IMAGES_VARIABLE: text})
    assert caught.value.exit_code == 2
