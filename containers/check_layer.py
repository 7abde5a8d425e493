#!/usr/bin/env python3
"""Whether what was installed over an image fits what the image has:  check_layer.py REQUIREMENTS

Runs inside the image, as the last step of its build: packages that were installed without their
dependencies find them in the base, in the versions they ask for, or the build fails here, not a stage later.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Container
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def main() -> None:
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    pins = {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}
    wrong = [line for name, version in pins.items() for line in amiss(name, version)]
    # A pin may replace what the base had: then the base's own packages have to bear it.
    wrong += [line for distribution in metadata.distributions() for line in unmet(distribution, pins)]
    if wrong:
        sys.exit("\n".join(["the image's packages do not fit together:", *sorted(set(wrong))]))


def amiss(name: str, version: str) -> list[str]:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return [f"{name} {version} is not installed"]
    if distribution.version != version:
        return [f"{name} is {distribution.version}, not {version}"]
    return unmet(distribution)


def unmet(distribution: metadata.Distribution, only: Container[str] | None = None) -> list[str]:
    """What ``distribution`` asks for and does not find; with ``only`` no other packages count."""
    found = []
    for line in distribution.requires or ():
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        if only is not None and normal(needed.name) not in only:
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            version = "absent"
        if version == "absent" or not needed.specifier.contains(version, prereleases=True):
            found.append(f"{distribution.name} needs {needed.name}{needed.specifier}, which is {version}")
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
