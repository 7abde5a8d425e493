"""What an entry of ``benchmark.prompts`` names: a file, here or elsewhere, a public set, or random text.

The files themselves are read by the stage that writes the prompts.  Here they are only found, without a
network and without importing anything of the packages that hold them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from speculators.datagen.prompt_sets import SETS, PromptSet
from speculators.recipe.hub_cache import HubFile, hub_file

BENCHMARK_FILES = "benchmark.prompts"
PACKAGE = "pypi://"
#: Between the name of a file and that of the set whose columns it has.
READ_AS = "#"
#: Random text as GuideLLM spells it: ``prompt_tokens=256``, or with ``kind=synthetic_text`` before it.
RANDOM_TEXT = re.compile(r"\w+=[^,=\s]+(?:,\w+=[^,=\s]+)*")


class PackageFile(NamedTuple):
    """A data file that an installed distribution ships."""

    package: str
    name: str

    def cached(self, environ: Mapping[str, str]) -> Path | None:
        """Where it lies; None where it is not installed.  By the installation's records: nothing is run."""
        try:
            files = metadata.files(self.package) or []
        except metadata.PackageNotFoundError:
            return None
        found = (Path(str(file.locate())) for file in files if file.name == self.name)
        return next((path for path in found if path.is_file()), None)


class PromptSource(NamedTuple):
    """``file``: by its name relative to the recipe, or elsewhere; None for random text.

    ``set``: the public set whose columns it has; ``random_text``: the settings of random text.
    """

    file: str | HubFile | PackageFile | None
    set: PromptSet | None = None
    random_text: Mapping[str, str] | None = None

    @property
    def elsewhere(self) -> HubFile | PackageFile | None:
        """The file, where it is none of the recipe's own."""
        return None if isinstance(self.file, str) else self.file

    def named(self, file: str) -> str:
        """What names the same prompts in another ``file``: what that is read as stays with it."""
        return f"{file}{READ_AS}{self.set.name}" if self.set else file

    def located(self, folder: Path, environ: Mapping[str, str]) -> Path | None:
        """Where the file lies, for a recipe in ``folder``; None where it is not here, or there is none."""
        if isinstance(self.file, str):
            return Path(os.path.normpath(folder / self.file))
        return self.file.cached(environ) if self.file else None


def prompt_source(name: str) -> PromptSource:
    """What ``name`` stands for.  A file that is called like a set is ``./name``."""
    if name in SETS:
        return PromptSource(_of_set(SETS[name].address), SETS[name])
    if "prompt_tokens=" in name and RANDOM_TEXT.fullmatch(name):
        return PromptSource(None, random_text=dict(part.split("=") for part in name.split(",")))
    file, _, read_as = name.rpartition(READ_AS)
    if file and read_as in SETS:
        return PromptSource(hub_file(file) or file, SETS[read_as])
    return PromptSource(hub_file(name) or name)


def sources_of(names: Any) -> list[PromptSource]:
    """What a value of ``benchmark.prompts`` names, in order."""
    return [prompt_source(name) for name in (names if isinstance(names, list) else [names]) if name]


def _of_set(address: str) -> HubFile | PackageFile | None:
    package, _, file = address.removeprefix(PACKAGE).partition("/")
    return PackageFile(package, file) if address.startswith(PACKAGE) else hub_file(address)
