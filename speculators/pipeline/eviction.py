"""Which stored outputs may go, why, and their removal.

Choosing is pure.  Removing takes an output's lock alone first, so nothing goes that a run uses, and renames
before it deletes: a kill in between leaves nothing that looks whole and is not.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from speculators.pipeline.inventory import Entry, Inventory, last_mark
from speculators.pipeline.machine.leftovers import clean_replaced
from speculators.pipeline.store import REPLACED, Store
from speculators.quantities import age, size


class Policy(NamedTuple):
    """What may go; None: no such limit.

    ``keep_last``: the latest used outputs of each stage stay, in each store.
    """

    older_than: float | None = None
    max_bytes: int | None = None
    keep_last: int | None = None


class Verdict(NamedTuple):
    """What is to become of one output, or became of it."""

    entry: Entry
    remove: bool
    reason: str


def judge(inventory: Inventory, policy: Policy, now: float) -> list[Verdict]:
    """A verdict on each output, the latest used first.

    Those that are too old go, then the longest unused until the rest fits; with ``keep_last`` alone all
    others go.
    """
    spared: dict[Entry, str] = {}
    seen: Counter[tuple[Path, str]] = Counter()
    for entry in inventory.entries:
        stage = (entry.home, entry.stage)
        seen[stage] += 1
        if entry.in_use:
            spared[entry] = "a run uses it now"
        elif seen[stage] <= (policy.keep_last or 0):
            spared[entry] = f"one of the last {policy.keep_last} of its stage"
    left = inventory.bytes
    verdicts = []
    for entry in reversed(inventory.entries):
        reason = "" if entry in spared else reason_to_go(entry, policy, left, now)
        left -= entry.bytes if reason else 0
        verdicts.append(Verdict(entry, bool(reason), reason or spared.get(entry) or reason_to_stay(policy)))
    return verdicts[::-1]


def reason_to_go(entry: Entry, policy: Policy, left: int, now: float) -> str:
    """Why ``entry`` may go while the store holds ``left`` bytes; nothing when it may not."""
    if policy.older_than is not None and now - entry.used > policy.older_than:
        return f"last used {age(now - entry.used)}"
    if policy.max_bytes is not None and left > policy.max_bytes:
        return f"{size(left)} are stored, and this is the longest unused"
    if policy.older_than is None and policy.max_bytes is None:
        return f"not one of the last {policy.keep_last} of its stage"
    return ""


def reason_to_stay(policy: Policy) -> str:
    limits = {"recently used": policy.older_than, "there is room": policy.max_bytes}
    return ", ".join(told for told, limit in limits.items() if limit is not None)


def collect(inventory: Inventory, verdicts: list[Verdict]) -> list[Verdict]:
    """Remove what is to go, the longest unused first; what happened to each, in the given order."""
    for home in inventory.homes:
        clean_replaced(Store(home).root)
    done = {verdict.entry: remove(verdict) for verdict in reversed(verdicts)}
    return [done[verdict.entry] for verdict in verdicts]


def remove(verdict: Verdict) -> Verdict:
    """Remove one output unless a run has taken it up since it was looked at."""
    entry = verdict.entry
    store = Store(entry.home)
    if not verdict.remove:
        return verdict
    lock = None
    try:
        lock = store.lock(entry.stage, entry.key)
        if not lock.try_take(alone=True) or last_mark(entry.path) > entry.used:
            return Verdict(entry, False, "a run has taken it up")
        store.set_aside(entry.stage, entry.key)
        for aside in entry.path.parent.glob(f"{entry.key}{REPLACED}*"):
            shutil.rmtree(aside)
    except OSError as error:
        return Verdict(entry, False, f"cannot be removed: {error.strerror or error}")
    finally:
        if lock:
            lock.close()
    forget_links(store, entry)
    return verdict


def forget_links(store: Store, entry: Entry) -> None:
    """Take away the links that had stood for other keys; a run that makes one of these replaces it itself."""
    for link in entry.path.parent.iterdir():
        if link.is_symlink() and "." not in link.name and not link.exists():
            lock = store.lock(entry.stage, link.name)
            if lock.try_take(alone=True) and not link.exists():
                link.unlink(missing_ok=True)
            lock.close()
