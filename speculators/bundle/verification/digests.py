"""Every member against two lists of digests."""

from __future__ import annotations

from collections.abc import Iterator

from speculators.bundle.archive import SUMS_LINE, SUMS_NAME, name_fault, sums_text
from speculators.bundle.create import BUNDLE_NAME
from speculators.bundle.schemas import schema_fault
from speculators.bundle.verification.documents import Bundle


def check(bundle: Bundle) -> str:
    """Two lists of digests, one of which covers the other: a changed list can be told from a changed file."""
    actual = {name: member.sha256 for name, member in bundle.archive.members.items() if name != SUMS_NAME}
    for name in (SUMS_NAME, BUNDLE_NAME):
        if not bundle.has(name):
            bundle.fault(name, "it is missing")
    bundle.require()
    sums = dict(sums_lines(bundle))
    bundle.require()
    listed = listed_digests(bundle) if sums.get(BUNDLE_NAME) == actual[BUNDLE_NAME] else None
    if listed is None:
        bundle.fault(
            BUNDLE_NAME, f"it does not have the digest that {SUMS_NAME} says: one of the two was changed"
        )
    for name in sorted((actual.keys() | sums.keys() | (listed or {}).keys()) - {BUNDLE_NAME}):
        digests = [actual.get(name), sums.get(name), None if listed is None else listed.get(name)]
        compare(bundle, name, *digests, trusted=listed is not None)
    if not bundle.faults and bundle.archive.read(SUMS_NAME) != sums_text(actual).encode():
        bundle.fault(SUMS_NAME, "not as it was written")
    return f"digests: {len(actual)} files against {SUMS_NAME} and {BUNDLE_NAME}"


def compare(
    bundle: Bundle, name: str, actual: str | None, summed: str | None, listed: str | None, *, trusted: bool
) -> None:
    """One member against the two lists; ``trusted``: whether the second is sound."""
    if actual == summed == listed or (actual == summed and not trusted):
        return
    if actual is None:
        bundle.fault(name if listed or not trusted else SUMS_NAME, f"{name} is missing")
    elif actual == listed:
        bundle.fault(SUMS_NAME, f"its line of {name} is not as it was written")
    elif listed is None and summed is None and trusted:
        bundle.fault(name, "it is on no list of the bundle's files")
    elif actual == summed:
        bundle.fault(BUNDLE_NAME, f"it lists another digest of {name}")
    else:
        bundle.fault(name, f"it has other bytes than {SUMS_NAME} says")


def sums_lines(bundle: Bundle) -> Iterator[tuple[str, str]]:
    text = bundle.archive.read(SUMS_NAME).decode(errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        match = SUMS_LINE.fullmatch(line)
        if match is None or name_fault(match[2]):
            bundle.fault(SUMS_NAME, f"line {number} is no digest and name")
        else:
            yield match[2], match[1]


def listed_digests(bundle: Bundle) -> dict[str, str]:
    """What ``bundle.json`` lists, once that is what it should be."""
    document = bundle.description()
    if fault := schema_fault(document, "bundle"):
        bundle.fault(BUNDLE_NAME, fault)
        bundle.require()
    return {name: entry["sha256"] for name, entry in document["members"].items()}
