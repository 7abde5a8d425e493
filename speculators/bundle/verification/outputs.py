"""What the stages sealed, against itself and against the files of it that are here."""

from __future__ import annotations

from speculators.bundle.verification.documents import Bundle
from speculators.documents import value_digest


def check(bundle: Bundle) -> str:
    """Sealed outputs against their own digests, and against the files of theirs that are here."""
    was, sealed_files, outputs = bundle.rewritten(), 0, bundle.sealed_outputs()
    for name in outputs:
        document = bundle.object(name)
        own = document.pop("digest")
        if own != value_digest(document) and name not in was:
            bundle.fault(name, "not as the stage sealed it")
        folder = name.rpartition("/")[0]
        for file, sealed in document["files"].items():
            member = f"{folder}/{file}"
            if bundle.has(member):
                sealed_files += 1
                if sealed["sha256"] not in (bundle.digest(member), was.get(member)):
                    bundle.fault(member, f"not the file that {name} names")
    return f"outputs: {len(outputs)} seals, {sealed_files} of their files"
