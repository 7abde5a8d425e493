"""What identifies an image is the same in every engine, and differs with everything that it does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculators.errors import RecipeError
from speculators.executors.image_pins import (
    by_digest,
    contents_digest,
    refuse_mutable,
    refuse_untested,
    repository,
)
from speculators.executors.images import Image, load_images

OTHER = "sha256:" + "0" * 64
WORDS = st.lists(st.text("abc/=-", min_size=1, max_size=6), max_size=4)
LAYERS = st.lists(st.integers(0, 99).map(lambda n: f"sha256:{n:064x}"), min_size=1, max_size=5)
NAMES = st.text("ABC_", min_size=1, max_size=4)
VARIABLES = st.dictionaries(NAMES, st.text("xyz=:/", max_size=5), max_size=4)


@st.composite
def images(draw: st.DrawFn) -> dict[str, Any]:
    """An image, as its own configuration says it."""
    return {
        "Os": "linux",
        "Architecture": draw(st.sampled_from(["amd64", "arm64"])),
        "RootFS": {"Type": "layers", "Layers": draw(LAYERS)},
        "Config": {
            "Env": [f"{name}={value}" for name, value in draw(VARIABLES).items()],
            "Cmd": draw(WORDS),
            "Entrypoint": draw(WORDS),
            "WorkingDir": draw(st.sampled_from(["/", "/srv"])),
            "User": draw(st.sampled_from(["", "2000:0"])),
        },
    }


@st.composite
def as_an_engine_says_it(draw: st.DrawFn, image: dict[str, Any]) -> dict[str, Any]:
    """The same image, spelled as one of the engines and stores that were seen spells it."""
    config = dict(image["Config"])
    for name in list(config):
        if config[name] in ([], "", "/"):
            spelled = draw(st.sampled_from(["null", "missing", "empty", "as it is"]))
            if spelled == "missing":
                del config[name]
            elif spelled == "null":
                config[name] = None
            elif spelled == "empty":
                config[name] = type(config[name])()
    extra = draw(st.sampled_from(["docker", "containerd", "podman"]))
    more: dict[str, Any] = {
        "docker": {"Id": OTHER, "RepoDigests": [], "Parent": "", "GraphDriver": {"Name": "overlay2"}},
        "containerd": {"Id": draw(LAYERS)[0], "Descriptor": {"size": 1}, "Metadata": {"LastTagTime": "now"}},
        "podman": {"Id": "ab" * 32, "Digest": OTHER, "NamesHistory": ["x"], "HealthCheck": None, "User": ""},
    }[extra]
    if extra == "docker":
        config |= {"Hostname": "", "AttachStdin": False, "Labels": {"a": "b"}, "OnBuild": None}
    said = [*more.items(), *(image | {"Config": config}).items()]
    random.Random(draw(st.integers())).shuffle(said)
    return dict(said)


@given(st.data())
def test_every_engine_gives_the_same_contents(data: st.DataObject) -> None:
    image = data.draw(images())
    digests = {contents_digest(data.draw(as_an_engine_says_it(image))) for _ in range(3)}
    assert len(digests) == 1
    assert digests.pop().startswith("sha256:")


@given(images(), images())
def test_different_images_have_different_contents(one: dict[str, Any], other: dict[str, Any]) -> None:
    def means(image: dict[str, Any]) -> Any:
        variables = dict(line.partition("=")[::2] for line in image["Config"]["Env"])
        return image | {"Config": image["Config"] | {"Env": variables}}

    assert (contents_digest(one) == contents_digest(other)) == (means(one) == means(other))


@pytest.mark.parametrize(
    "change",
    [
        {"RootFS": {"Layers": ["sha256:1", "sha256:2"]}},
        {"RootFS": {"Layers": ["sha256:2", "sha256:1"]}},
        {"Architecture": "arm64"},
        {"Os": "windows"},
        {"Config": {"User": "2000"}},
        {"Config": {"Env": ["PATH=/bin"]}},
        {"Config": {"Entrypoint": ["sh"]}},
        {"Config": {"Cmd": ["sh"]}},
        {"Config": {"WorkingDir": "/srv"}},
    ],
)
def test_what_a_process_would_notice_changes_the_contents(change: dict[str, Any]) -> None:
    image: dict[str, Any] = {"Os": "linux", "Architecture": "amd64", "RootFS": {"Layers": []}, "Config": {}}
    assert contents_digest(image | change) != contents_digest(image)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("vllm/vllm-openai", "vllm/vllm-openai"),
        ("vllm/vllm-openai:v0.31.0", "vllm/vllm-openai"),
        (f"vllm/vllm-openai:v0.31.0@{OTHER}", "vllm/vllm-openai"),
        (f"127.0.0.1:5055/vllm-openai@{OTHER}", "127.0.0.1:5055/vllm-openai"),
        ("127.0.0.1:5055/team/vllm-openai:nightly", "127.0.0.1:5055/team/vllm-openai"),
        ("127.0.0.1:5055/vllm-openai", "127.0.0.1:5055/vllm-openai"),
    ],
)
def test_repository(reference: str, name: str) -> None:
    assert repository(reference) == name


def test_an_image_with_a_digest_is_asked_for_by_it_alone() -> None:
    engine = load_images().images["cuda-engine"]
    assert by_digest(engine) == f"vllm/vllm-openai@{engine.digest}"
    assert by_digest(load_images().images["cpu"]) == "speculators/cpu:0.32.0"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("vllm/vllm-openai:v1", "vllm/vllm-openai"),
        ("registry.example:5000/a/b", "registry.example:5000/a/b"),
        ("registry.example:5000/a/b:1.2", "registry.example:5000/a/b"),
        ("plain", "plain"),
    ],
)
def test_an_image_is_pulled_by_repository_and_digest_alone(reference: str, name: str) -> None:
    image = load_images().images["cpu"]._replace(reference=f"{reference}@{OTHER}")
    assert by_digest(image) == f"{name}@{OTHER}"


def chosen(**replaced: str) -> dict[str, Image]:
    return load_images().roles("cuda", {name.replace("_", "-"): value for name, value in replaced.items()})


def test_the_shipped_images_are_tested() -> None:
    refuse_untested(chosen(), load_images().images, allow=False)


def test_a_mirror_with_the_shipped_digest_is_the_shipped_image() -> None:
    shipped = load_images().images
    mirror = f"mirror.example:5000/vllm-openai@{shipped['cuda-engine'].digest}"
    refuse_untested(chosen(cuda_engine=mirror), shipped, allow=False)


@pytest.mark.parametrize(
    "replaced",
    [
        {"cuda_engine": f"vllm/vllm-openai:v0.31.0@{OTHER}"},
        {"cuda_engine": "vllm/vllm-openai:v0.31.0"},
        {"engine": "vllm/vllm-openai:nightly"},
        # Shipped, but not for that work.
        {"bench": load_images().images["cuda-engine"].reference},
    ],
)
def test_another_image_needs_the_flag(replaced: dict[str, str]) -> None:
    images = chosen(**replaced)
    with pytest.raises(RecipeError, match="was not tested in this image") as caught:
        refuse_untested(images, load_images().images, allow=False)
    assert "--allow-untested" in caught.value.hint
    refuse_untested(images, load_images().images, allow=True)


def test_a_bare_tag_is_refused_unless_a_lock_pins_it() -> None:
    tag = chosen(engine="vllm/vllm-openai:nightly")["engine"]
    with pytest.raises(RecipeError, match="may name another image tomorrow") as caught:
        refuse_mutable(tag, pinned="")
    assert "vllm/vllm-openai@sha256:" in caught.value.hint
    refuse_mutable(tag, pinned=OTHER)


def test_images_that_ship_are_not_mutable() -> None:
    for image in load_images().images.values():
        refuse_mutable(image, pinned="")
