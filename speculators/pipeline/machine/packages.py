"""The interpreter and the packages that the stages import.

Nothing is imported to find out: importing torch takes seconds, and a package that is half there
would answer with a traceback.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Collection, Iterable
from importlib import metadata
from typing import NamedTuple

from speculators.datagen.parquet import is_parquet
from speculators.executors.images import ROLES
from speculators.pipeline.machine.findings import Finding, missing, ok, warning
from speculators.recipe.prompt_source import BENCHMARK_FILES
from speculators.recipe.recipe import Recipe
from speculators.recipe.view import PREPARED
from speculators.serving.launcher import ENGINE_DISTRIBUTIONS, has_engine

OLDEST, NEWEST = (3, 10), (3, 13)
CPU_ENGINE_PYTHON = (3, 11)
CPU_ENGINE_SYSTEM = ("Linux", "x86_64")


class Package(NamedTuple):
    """A module that stages of ``roles`` import, distributions that may hold it, the extra that brings it."""

    module: str
    distributions: tuple[str, ...]
    extra: str
    roles: tuple[str, ...]
    check: str = "package"


NEEDED = (
    Package("torch", ("torch",), "train", ("engine", "trainer")),
    Package("transformers", ("transformers",), "train", ("engine", "trainer")),
    Package("safetensors", ("safetensors",), "train", ("engine", "trainer")),
    Package("huggingface_hub", ("huggingface-hub",), "datagen", ("engine", "trainer")),
    Package("guidellm", ("guidellm",), "bench", ("bench",)),
    Package("prometheus_client", ("prometheus-client",), "bench", ("bench",)),
    Package("scipy", ("scipy",), "bench", ("bench",)),
    Package("vllm", ENGINE_DISTRIBUTIONS, "cuda", ("engine",), check="engine"),
)
#: Needed only where the verifier is a GGUF file inside a distribution.
GGUF = Package("gguf", ("gguf",), "datagen", ("trainer",))
#: Needed only where the recipe brings a prepared dataset, or prompts in Parquet files.
ARROW = {
    PREPARED: Package("pyarrow", ("pyarrow",), "datagen", ("trainer",)),
    "datagen.prompts.files": Package("pyarrow", ("pyarrow",), "datagen", ("engine",)),
    BENCHMARK_FILES: Package("pyarrow", ("pyarrow",), "datagen", ("engine",)),
}
#: By the name in ``training.trackers``: who follows a training.
TRACKERS = {
    "tensorboard": Package("tensorboard", ("tensorboard",), "tensorboard", ("trainer",), check="tracker"),
    "wandb": Package("wandb", ("wandb",), "wandb", ("trainer",), check="tracker"),
    "mlflow": Package("mlflow", ("mlflow", "mlflow-skinny"), "mlflow", ("trainer",), check="tracker"),
}


def recipe_packages(recipe: Recipe) -> tuple[Package, ...]:
    """What the recipe's trackers need, and the format of its data."""
    trackers = tuple(TRACKERS[name] for name in recipe.data.get("training", {}).get("trackers", ()))
    tables = dict.fromkeys(package for name, package in ARROW.items() if _brings(recipe, name))
    return (*trackers, *tables)


def _brings(recipe: Recipe, name: str) -> bool:
    return any(name == PREPARED or is_parquet(path) for path in recipe.files().get(name, ()))


class Installed(NamedTuple):
    """What the import system and the installation records say of one package."""

    importable: bool
    distribution: str = ""
    version: str = ""


def look(package: Package) -> Installed:
    importable = is_importable(package.module)
    for name in package.distributions:
        try:
            return Installed(importable, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return Installed(importable)


def is_importable(module: str) -> bool:
    """Whether there is code behind ``module``; the empty folder of an uninstalled package is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def package_findings(also: Iterable[Package] = (), roles: Collection[str] = ROLES) -> list[Finding]:
    """What is amiss with the packages of the stages of ``roles``, and one line on those that are sound."""
    needed = [package for package in (*NEEDED, *also) if set(package.roles) & set(roles)]
    return judge_packages({package: look(package) for package in needed})


def judge_packages(found: dict[Package, Installed]) -> list[Finding]:
    broken = [judge_package(package, installed) for package, installed in found.items()]
    sound = [
        f"{installed.distribution} {installed.version}"
        for package, installed in found.items()
        if package.check == "package" and installed.importable and installed.version
    ]
    return [*([ok("package", ", ".join(sound))] if sound else []), *filter(None, broken)]


def judge_package(package: Package, installed: Installed) -> Finding | None:
    """What is amiss with one package, or None."""
    setup = f"in the checkout: make setup-local (CPU), or pip install '.[{package.extra}]' (NVIDIA GPU)"
    name, version = installed.distribution, installed.version
    if package.check == "tracker":
        setup = f"pip install {package.distributions[-1]}, or leave it out of training.trackers"
    if not installed.importable and not version:
        return missing(package.check, f"{package.module} is not installed (extra '{package.extra}')", setup)
    if not installed.importable:
        mend = f"pip install --force-reinstall --no-deps {name}=={version}"
        return missing(package.check, f"{name} {version} is recorded as installed, but has no code", mend)
    if not version:
        names = " or ".join(package.distributions)
        detail = f"{package.module} can be imported, but no installation record of {names} is here"
        return missing(package.check, detail, f"take that copy off the Python path, then {setup}")
    return None


def python_findings() -> list[Finding]:
    return judge_python(sys.version_info[:3], (platform.system(), platform.machine()), has_engine())


def judge_python(version: tuple[int, int, int], system: tuple[str, str], engine: bool) -> list[Finding]:
    """The interpreter against what this project supports, and against what the engine set-up wants."""
    told = f"{'.'.join(map(str, version))} on {' '.join(system)}"
    supported = f"{_dotted(OLDEST)} to {_dotted(NEWEST)}"
    venv = "make a virtual environment with Python 3.11: make setup-local, or PYTHON=... make setup-local"
    if version[:2] < OLDEST:
        return [missing("python", f"{told}; supported are {supported}", venv)]
    if version[:2] > NEWEST:
        return [warning("python", f"{told}; supported are {supported}, newer ones are untried", venv)]
    if engine or (version[:2] == CPU_ENGINE_PYTHON and system == CPU_ENGINE_SYSTEM):
        return [ok("python", told)]
    wanted = f"Python {_dotted(CPU_ENGINE_PYTHON)} on {' '.join(CPU_ENGINE_SYSTEM)}"
    mend = f"for the CPU engine: {wanted}; with an NVIDIA GPU: pip install '.[cuda]' in the checkout"
    return [warning("python", f"{told}; the pinned CPU engine is built for {wanted} only", mend)]


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
