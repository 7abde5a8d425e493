"""Bundles that somebody with intent would make: changed, with every digest made to fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speculators.bundle.archive import SUMS_NAME, read_archive, sums_text, write_archive
from speculators.bundle.attestation import subjects
from speculators.bundle.model import content_digest

Members = dict[str, bytes]


def rewritten(whole: Path, target: Path, change: Callable[[Members], None]) -> Path:
    """The bundle with its members changed and all digests made to fit."""
    archive = read_archive(whole)
    members = {name: archive.read(name) for name in archive.members if name != SUMS_NAME}
    change(members)
    listing = json.loads(members["bundle.json"])
    for name, entry in listing["members"].items():
        if name in members:
            entry["sha256"] = content_digest(members[name])
    members["bundle.json"] = json.dumps(listing).encode()
    digests = {name: content_digest(content) for name, content in members.items()}
    write_archive(target, {**members, SUMS_NAME: sums_text(digests).encode()})
    return target


def edit(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Members], None]:
    """A change of one document."""

    def apply(members: Members) -> None:
        document = json.loads(members[name])
        change(document)
        members[name] = json.dumps(document).encode()

    return apply


def add(members: Members, name: str, content: bytes) -> None:
    """One more member, on every list."""
    members[name] = content
    edit("bundle.json", lambda listing: listing["members"].update({name: {"sha256": ""}}))(members)


def rename_run(members: Members, run: str) -> None:
    """Another run id, wherever a bundle says it."""
    edit("run.json", lambda record: record.update(id=run))(members)
    edit("report.json", lambda report: report.update(run=run))(members)
    edit("bundle.json", lambda listing: listing.update(run=run))(members)
    weights = json.loads(members["bundle.json"])["weights"]
    expected = subjects(weights, content_digest(members["run.json"]))
    for name in ("attestation.json", "attestation-tests.json"):
        edit(name, lambda statement: statement.update(subject=expected))(members)
