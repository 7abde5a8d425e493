"""Where the code of a vLLM version comes from: what is installed, or a published CUDA wheel's Python files.

A CUDA wheel is hundreds of megabytes and its dependencies are gigabytes.  Its Python files need neither a GPU
nor most of those: they are unpacked into a folder of their own, put before the installed packages, and import
with torch's CPU build (see ``no_gpu``).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import file_digest
from speculators.pipeline.store import default_home
from speculators.serving.launcher import ENGINE_DISTRIBUTIONS

ROOT = Path(__file__).parents[2]
SNAPSHOTS = Path(__file__).parent / "snapshots"
DOWNLOAD_SECONDS = 600
#: Kept of the wheel: code, and the metadata by which it says its version and its requirements.
KEPT = (".py", ".dist-info/METADATA", ".dist-info/entry_points.txt")
ORIGIN = "origin.json"
#: vLLM's own way to name a platform that it does not detect.
PLUGIN_METADATA = "Metadata-Version: 2.1\nName: speculators-no-gpu\nVersion: 1\n"
PLUGIN_ENTRY = "[vllm.platform_plugins]\nno_gpu = tests.contracts.no_gpu:register\n"


class UnavailableError(Exception):
    """A version's code cannot be had here."""


class Engine(NamedTuple):
    """One vLLM to ask.

    ``folder``: its unpacked wheel, None for what is installed.  ``origin``: what snapshots say of it.
    """

    distribution: str
    version: str
    folder: Path | None
    origin: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.distribution}-{self.version}"

    @property
    def snapshot(self) -> Path:
        return SNAPSHOTS / f"{self.name}.json"

    def environment(self, scratch: Path) -> dict[str, str]:
        """The variables of a process that asks this engine; what vLLM writes goes to ``scratch``."""
        path = [str(self.folder)] if self.folder else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join([*path, str(ROOT)]),
            "SPECULATORS_CONTRACTS_WHEEL": str(self.folder or ""),
            # Empty, not absent: with it vLLM takes Triton as usable though no driver answers.
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(scratch / "hub"),
            "VLLM_CACHE_ROOT": str(scratch / "vllm"),
            "VLLM_CONFIG_ROOT": str(scratch / "vllm-config"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }


def find_engine(wanted: str) -> Engine:
    """The engine called ``installed``, ``newest`` or by a published version.

    Raises:
        UnavailableError: nothing is installed, or the wheel cannot be downloaded.
    """
    if wanted == "installed":
        return installed()
    return unpacked(newest() if wanted == "newest" else wanted)


def installed() -> Engine:
    """The vLLM of this environment.

    Raises:
        UnavailableError: there is none.
    """
    for name in ENGINE_DISTRIBUTIONS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return Engine(name, version, None, {"installed": f"{name} {version}"})
    raise UnavailableError("no vLLM is installed in this environment")


def newest() -> str:
    """The newest version on the package index."""
    command = [sys.executable, "-m", "pip", "index", "versions", "vllm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    first = (done.stdout.splitlines() or [""])[0]  # "vllm (0.33.0)"
    if done.returncode or "(" not in first:
        raise UnavailableError(f"the package index names no version of vllm: {_last_line(done.stderr)}")
    return first.partition("(")[2].rstrip(")")


def unpacked(version: str) -> Engine:
    """The published wheel of ``version``, unpacked in the cache; downloaded when it is not there.

    Raises:
        UnavailableError: the wheel cannot be downloaded.
    """
    folder = default_home() / "contracts" / f"vllm-{version}"
    if not (folder / ORIGIN).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="wheel-", dir=folder.parent) as scratch:
            unpack(_download(version, Path(scratch)), folder)
    origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    shown = {name: origin[name] for name in ("wheel", "sha256")}
    return Engine("vllm", version, folder, shown)


def _download(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"vllm=={version}", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"vllm {version}: not downloaded within {DOWNLOAD_SECONDS} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise UnavailableError(f"vllm {version}: {_last_line(done.stderr)}")
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> None:
    """The Python files of ``wheel`` in ``folder``, beside what makes vLLM run them without a GPU."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(partial, [name for name in names if name.endswith(KEPT)])
    plugin = partial / "speculators_no_gpu-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text(PLUGIN_METADATA, encoding="utf-8")
    (plugin / "entry_points.txt").write_text(PLUGIN_ENTRY, encoding="utf-8")
    origin = {
        "wheel": wheel.name,
        "sha256": file_digest(wheel),
        "extensions": sorted({extension(name) for name in names if name.endswith(".so")}),
    }
    (partial / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    partial.rename(folder)


def extension(path: str) -> str:
    """The module that a compiled file of a wheel is: ``a/b.abi3.so`` -> ``a.b``."""
    folder, _, file = path.rpartition("/")
    return ".".join([*folder.split("/"), file.partition(".")[0]])


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
