"""Is a bundle what it says?  Every byte, every digest and schema, and what follows from what; offline.

The order matters: nothing of a document is believed before its bytes are, and bytes are not looked at before
the archive is one.  What this cannot show is said as plainly as what it did: nobody signed it, and nobody but
a repeated run knows whether the figures are true.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from speculators.bundle.archive import Archive, DamagedBundleError, read_archive
from speculators.bundle.verification import digests, files, outputs, provenance, record, report, schemas
from speculators.bundle.verification.documents import Bundle

VERIFY_SCHEMA = "speculators/verify/v1"


class Verified(NamedTuple):
    """A sound bundle, what was checked, and what could not be."""

    archive: Archive
    description: dict[str, Any]
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]

    def json(self, name: str) -> dict[str, Any]:
        """The document ``name``; empty when the bundle has none."""
        return Bundle(self.archive).object(name) if name in self.archive.members else {}

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema": VERIFY_SCHEMA,
            "bundle": self.archive.path.name,
            "run": self.description["run"],
            "ok": True,
            "checked": list(self.checked),
            "not_checked": list(self.not_checked),
        }


CHECKS: tuple[Callable[[Bundle], str], ...] = (
    digests.check,
    schemas.check,
    record.check,
    outputs.check,
    files.check,
    report.check,
    provenance.check,
)


def verify(path: Path) -> Verified:
    """Check the bundle in file ``path``.

    Raises:
        RecipeError: it is something else than a bundle.
        DamagedBundleError: naming the files in it that are not as they should be.
        OSError: the file cannot be read.
    """
    bundle = Bundle(read_archive(path))
    checked = [f"archive: {len(bundle.archive.members)} plain files, every byte accounted for"]
    for check in CHECKS:
        try:
            said = check(bundle)
        except (KeyError, TypeError, AttributeError, IndexError) as error:  # a document of another shape
            kind = type(error).__name__
            raise DamagedBundleError(
                f"{path.name}: its documents do not fit together: {kind} {error}"
            ) from None
        bundle.require()
        checked.append(said)
    return Verified(bundle.archive, bundle.description(), tuple(checked), tuple(bundle.open))
