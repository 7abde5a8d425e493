"""The documents of a bundle as they are looked at, and what was found wrong with them."""

from __future__ import annotations

import json
from typing import Any

from speculators.bundle.archive import Archive, DamagedBundleError
from speculators.bundle.create import BUNDLE_NAME

MEASURED = "bench/output.json"


class Bundle:
    """The parsed documents of a whole archive, and the faults found in them."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.faults: list[str] = []
        self.open: list[str] = []  # what could not be checked

    def has(self, name: str) -> bool:
        return name in self.archive.members

    def digest(self, name: str) -> str:
        return self.archive.members[name].sha256

    def json(self, name: str) -> Any:
        """The JSON document ``name``.

        Raises:
            DamagedBundleError: it is none.
        """
        try:
            return json.loads(self.archive.read(name))
        except (ValueError, RecursionError) as error:
            raise DamagedBundleError(f"{self.archive.path.name}: {name}: not JSON: {error}") from None

    def object(self, name: str) -> dict[str, Any]:
        document = self.json(name)
        if not isinstance(document, dict):
            raise DamagedBundleError(f"{self.archive.path.name}: {name}: not a JSON object")
        return document

    def text(self, name: str) -> str:
        """The text of member ``name``.

        Raises:
            DamagedBundleError: it is not UTF-8.
        """
        try:
            return self.archive.read(name).decode()
        except UnicodeDecodeError:
            raise DamagedBundleError(f"{self.archive.path.name}: {name}: not UTF-8 text") from None

    def description(self) -> dict[str, Any]:
        """What the bundle says that it holds."""
        return self.object(BUNDLE_NAME)

    def rewritten(self) -> dict[str, str]:
        """Digest in the run folder of every member whose paths were replaced."""
        members = self.description()["members"]
        return {name: entry["was"] for name, entry in members.items() if "was" in entry}

    def sealed_outputs(self) -> list[str]:
        """The documents with which stages sealed their outputs; a benchmark's own is none."""
        return [name for name in self.archive.members if name.endswith("/output.json") and name != MEASURED]

    def fault(self, name: str, text: str) -> None:
        self.faults.append(f"{name}: {text}")

    def require(self) -> None:
        """Stop at what was found so far: what comes next builds on it.

        Raises:
            DamagedBundleError: naming every fault.
        """
        if self.faults:
            lines = self.faults if len(self.faults) == 1 else ["", *self.faults]
            raise DamagedBundleError(f"{self.archive.path.name}: " + "\n  ".join(lines))
