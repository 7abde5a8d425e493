"""Whether what is called ``speculators`` here is this package.

The reference package has the same name.  Installed in the same environment, one of them is imported
where the other was meant: stages are started by the module's name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

import speculators
from speculators import __version__
from speculators.pipeline.machine.findings import Finding, missing, ok, warning

NAME = "speculators"
COMMAND = "speculators.cli.app:main"
PACKAGE_FOLDER = Path(speculators.__file__).resolve().parent


class Copy(NamedTuple):
    """An installed distribution of that name: what its command calls, and whether its files are ours."""

    version: str
    place: str
    commands: tuple[str, ...]
    is_here: bool

    @property
    def is_foreign(self) -> bool:
        return COMMAND not in self.commands if self.commands else not self.is_here


def copy_findings() -> list[Finding]:
    installed = [_copy(found) for found in metadata.distributions(name=NAME)]
    return judge_copies(installed, shadows([str(Path.cwd()), *sys.path]))


def judge_copies(installed: Iterable[Copy], shadowing: Iterable[Path]) -> list[Finding]:
    found = [_judge(copy) for copy in installed]
    found += [
        missing(
            NAME,
            f"{folder} holds another package of this name, which stages would import instead",
            "run from another folder, and take that one off PYTHONPATH",
        )
        for folder in shadowing
    ]
    return found or [ok(NAME, f"{__version__}, used from {PACKAGE_FOLDER.parent} without being installed")]


def _judge(copy: Copy) -> Finding:
    if copy.is_foreign:
        return missing(
            NAME,
            f"another package named speculators, {copy.version}, is installed in {copy.place}",
            "keep the two in environments of their own: pip uninstall speculators here, then install this "
            "one again",
        )
    if not copy.is_here:
        return warning(
            NAME,
            f"what runs is {PACKAGE_FOLDER.parent}, what is installed is {copy.version} from {copy.place}",
            "unset PYTHONPATH to run the installed one, or install this one: pip install -e .",
        )
    return ok(NAME, f"{copy.version} in {PACKAGE_FOLDER.parent}")


def shadows(search: Sequence[str]) -> list[Path]:
    """Folders of the search path that hold another such package before the one that runs."""
    found: list[Path] = []
    for entry in dict.fromkeys(search):
        package = Path(entry or ".").resolve() / NAME
        if package == PACKAGE_FOLDER:
            break
        if (package / "__init__.py").is_file() and package.resolve() != PACKAGE_FOLDER:
            found.append(package.parent)
    return found


def _copy(found: metadata.Distribution) -> Copy:
    place = _editable_folder(found) or Path(str(found.locate_file(""))).resolve()
    files = {Path(str(found.locate_file(file))).resolve() for file in found.files or ()}
    here = PACKAGE_FOLDER / "__init__.py" in files or place == PACKAGE_FOLDER.parent
    commands = tuple(point.value for point in found.entry_points if point.name == NAME)
    return Copy(found.version, str(place), commands, here)


def _editable_folder(found: metadata.Distribution) -> Path | None:
    """The source folder of an editable installation, which lists none of the package's files."""
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if not direct.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(direct["url"]).path)).resolve()
