"""The packages that the CUDA images add to vLLM's: do they resolve, and does vLLM agree with them?

The files are installed with ``--no-deps --require-hashes`` over the public image, so nothing would notice a
version that vLLM's own wheel excludes before the image breaks.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

#: As in vLLM's public images.
PYTHON = "3.12"
GLIBC_MINORS = range(17, 36)
PINNED = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    """Versions by normalised name in the text of a requirements file."""
    return {canonicalize_name(name): version for name, version in PINNED.findall(text)}


def unresolved(file: Path, machine: str, seconds: float) -> list[str]:
    """What stands against installing exactly ``file`` in the image of ``machine``."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS] + [f"manylinux2014_{machine}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
    command += ["--ignore-installed", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", PYTHON]
    # Older pips ask the interpreter that runs them, not the image's; the report is asked instead.
    command += ["--ignore-requires-python"]
    command += [word for platform in platforms for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command += ["--target", scratch, "--report", str(report), "-r", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode != 0:
            return [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr.strip()]
        found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    installed = {canonicalize_name(one["name"]): one["version"] for one in found}
    wrong = [] if installed == pins(file.read_text(encoding="utf-8")) else [f"pip would install {installed}"]
    return wrong + [
        f"{one['name']} {one['version']} requires Python {one['requires_python']}"
        for one in found
        if PYTHON not in SpecifierSet(one.get("requires_python") or "")
    ]


def conflicts(pinned: dict[str, str], metadata: str, machine: str) -> list[str]:
    """Pins that a wheel's own requirements (the text of its METADATA) exclude."""
    environment = {
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "extra": "",
    }
    return [
        f"{name} {pinned[name]} is pinned, the wheel requires {requirement}"
        for requirement in _requirements(metadata)
        if (name := canonicalize_name(requirement.name)) in pinned
        and (requirement.marker is None or requirement.marker.evaluate(environment))
        and not requirement.specifier.contains(pinned[name], prereleases=True)
    ]


def _requirements(metadata: str) -> Iterable[Requirement]:
    return map(Requirement, HeaderParser().parsestr(metadata).get_all("Requires-Dist") or ())
