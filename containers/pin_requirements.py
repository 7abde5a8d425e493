#!/usr/bin/env python3
"""Pin the packages that the CUDA images add to vLLM's own:  pin_requirements.py [FOLDER...]

For each folder with a ``requirements.in``: resolves it together with the vLLM release that ``images.yaml``
names, for both platforms, and writes to ``requirements.txt`` what vLLM alone would not bring, or would bring
in another version, with the hashes of the files.  Needs PyYAML and a current pip (23.2 takes its own
interpreter for the image's); installs nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
#: As in vLLM's public images: CPython and the oldest C library that their packages may ask for.
PYTHON, GLIBC_MINOR = "3.12", 35
MACHINES = ("x86_64", "aarch64")

Report = dict[str, dict[str, Any]]


def main() -> None:
    rows = yaml.safe_load((HERE / "images.yaml").read_text(encoding="utf-8"))["images"].values()
    versions = {row["build"]: row["vllm"] for row in rows if row.get("build")}
    for folder in sys.argv[1:] or sorted(path.parent.name for path in HERE.glob("*/requirements.in")):
        pin(HERE / folder, f"vllm=={versions[folder]}")


def pin(folder: Path, vllm: str) -> None:
    text = (folder / "requirements.in").read_text(encoding="utf-8")
    wanted = [line for line in text.splitlines() if line and not line.startswith("#")]
    pinned = {machine: layer(wanted, vllm, machine) for machine in MACHINES}
    if len({tuple(versions(report)) for report in pinned.values()}) > 1:
        sys.exit(f"{folder.name}: the platforms resolve to different versions: pin one in requirements.in")
    lines = [
        f"# {vllm} brings the rest.  Made by containers/pin_requirements.py: change requirements.in instead.",
        f"# CPython {PYTHON}, Linux on {' and '.join(MACHINES)}; installed with --no-deps --require-hashes.",
    ]
    for name, version in versions(pinned[MACHINES[0]]):
        hashes = sorted({file_hash(report[name]) for report in pinned.values()})
        lines.append(
            " \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in hashes)])
        )
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def layer(wanted: list[str], vllm: str, machine: str) -> Report:
    """What to install over vLLM's packages: all that is named, and what vLLM lacks or has otherwise."""
    named = {normal(re.split(r"[^\w.-]", line)[0]) for line in wanted}
    alone, together = resolve((vllm,), machine), resolve((vllm, *wanted), machine)
    have = dict(versions(alone))
    return {
        name: together[name]
        for name, version in versions(together)
        if name in named or have.get(name) != version
    }


@cache
def resolve(wanted: tuple[str, ...], machine: str) -> Report:
    platforms = [f"manylinux{year}_{machine}" for year in ("1", "2010", "2014")]
    platforms += [f"manylinux_2_{minor}_{machine}" for minor in range(17, GLIBC_MINOR + 1)]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "--target", scratch, "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", PYTHON]
        command += [word for platform in platforms for word in ("--platform", platform)]
        subprocess.run([*command, *wanted], check=True)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {normal(item["metadata"]["name"]): item for item in installs}


def versions(report: Report) -> list[tuple[str, str]]:
    return sorted((name, item["metadata"]["version"]) for name, item in report.items())


def file_hash(item: dict[str, Any]) -> str:
    return str(item["download_info"]["archive_info"]["hashes"]["sha256"])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
