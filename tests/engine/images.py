"""The images that tests run in, made of this host's own files: no network, no builder, a few seconds."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement

from tests.engine.archive import EXECUTABLE, SHARED, Built, Folder, HostFile, Layer, Link, Text, write_image
from tests.engine.libraries import libraries

CHECKOUT = Path(__file__).parents[2]
REPOSITORY = "speculators-tests"
#: Where ``containers/cpu/Dockerfile`` puts it.
OUR_ENVIRONMENT = Path("/opt/venv")
SETTINGS: dict[str, Any] = {
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    "Cmd": ["/bin/sh"],
    "WorkingDir": "/",
}
#: The same in the words of a Dockerfile.
CHANGES = [
    *(f"ENV {variable}" for variable in SETTINGS["Env"]),
    f"CMD {json.dumps(SETTINGS['Cmd'])}",
    f"WORKDIR {SETTINGS['WorkingDir']}",
]
PROGRAMS = (
    *("sh", "bash", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "du", "echo", "env", "expr"),
    *("false", "find", "grep", "head", "hostname", "id", "ldconfig", "ln", "ls", "lscpu", "mkdir", "mkfifo"),
    *("mktemp", "mount", "mv", "nproc", "printenv", "printf", "ps", "pwd", "readlink", "realpath", "rm"),
    *("rmdir", "sed", "seq", "sha256sum", "sleep", "sort", "stat", "tail", "tee", "test", "timeout", "touch"),
    *("tr", "true", "truncate", "umount", "uname", "wc", "which", "whoami"),
)
#: Parts of the standard library that no stage uses, and other packages' folders in it.
UNUSED = (
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"),
    *("config-*", "_tkinter.*", "_test*", "site-packages", "dist-packages"),
)

Added = tuple[Path, str]


def small_image(archive: Path, add: Iterable[Added] = ()) -> Built:
    """A shell and the common programs; for tests of engines."""
    return write_image(archive, f"{REPOSITORY}/small", [_system(), *_folders(add)], SETTINGS)


def python_image(archive: Path, add: Iterable[Added] = ()) -> Built:
    """The interpreter that runs the tests, with the packages of the project's host side; no torch."""
    layers = [_system(), _interpreter(), _light_packages()]
    return write_image(archive, f"{REPOSITORY}/python", [*layers, *_folders(add)], SETTINGS)


def environment_layer() -> Layer:
    """The virtual environment that runs the tests, where our image has it."""
    whole = Layer()
    for part in (_system(), _interpreter(), _environment(Path(sys.prefix))):
        whole.entries |= part.entries
    return whole


IMAGES: dict[str, Callable[[Path], Built]] = {"small": small_image, "python": python_image}


def _system() -> Layer:
    """The folders that every program expects, and a few programs with their libraries."""
    layer = Layer()
    for name in ("bin", "sbin", "lib", "lib64"):
        layer.put(f"/usr/{name}", Folder())
        layer.put(f"/{name}", Link(f"usr/{name}"))
    for name in ("dev", "etc", "proc", "root", "run", "sys", "var"):
        layer.put(f"/{name}", Folder())
    for name, mode in SHARED.items():
        layer.put(f"/{name}", Folder(mode))
    for name, text in {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "group": "root:x:0:\nnogroup:x:65534:\n",
        "nsswitch.conf": "hosts: files dns\npasswd: files\ngroup: files\n",
        "hosts": "127.0.0.1 localhost\n",
    }.items():
        layer.put(f"/etc/{name}", Text(text.encode()))
    for name in PROGRAMS:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found:
            _add_program(layer, Path(found))
    _add_libraries(layer)
    return layer


def _interpreter() -> Layer:
    """The interpreter below the virtual environment, where the host has it, and as /usr/local/bin/python3."""
    layer = Layer()
    executable = _base_executable()
    for name in (f"python3.{sys.version_info.minor}", "python3", "python"):
        beside = executable.parent / name
        if beside.exists() and beside.resolve() == executable:
            _add_program(layer, beside)
        if executable.parent != Path("/usr/local/bin"):
            layer.put(f"/usr/local/bin/{name}", Link(str(executable)))
    _add_program(layer, executable)
    standard = Path(sysconfig.get_path("stdlib"))
    layer.add_tree(standard, without=UNUSED)
    _add_libraries(layer)
    return layer


def _light_packages() -> Layer:
    """What the project's host side depends on, in the interpreter's own folder for packages."""
    layer = Layer()
    ask = [str(_base_executable()), "-I", "-c", "import site; print(site.getsitepackages()[0])"]
    packages = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    for distribution in _closure(_light_requirements()):
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                layer.add(Path(str(file.locate())), os.path.join(packages, str(file)))
    _add_libraries(layer)
    return layer


def _environment(prefix: Path) -> Layer:
    """The tree of ``prefix`` where our image has it, whatever its place here.

    A checkout below /tmp must do too, and a stage's own /tmp hides all that an image has there; so nothing
    in the layer may lead back to ``prefix``.
    """
    layer = Layer()
    layer.add_tree(prefix, str(OUR_ENVIRONMENT))
    for script in (prefix / "bin").iterdir():
        # The interpreter itself begins with other bytes, and a link to it must stay a link.
        if script.is_file() and not script.is_symlink():
            content = script.read_bytes()
            if content.startswith(b"#!"):
                moved = content.replace(os.fsencode(prefix), os.fsencode(OUR_ENVIRONMENT))
                layer.put(str(OUR_ENVIRONMENT / "bin" / script.name), Text(moved, EXECUTABLE))
    _add_libraries(layer)
    return layer


def _folders(add: Iterable[Added]) -> Iterable[Layer]:
    for source, target in add:
        layer = Layer()
        layer.add_tree(source, target)
        yield layer


def _base_executable() -> Path:
    return Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def _add_program(layer: Layer, path: Path) -> None:
    """A program by the name it is called by, and the links that lead to it."""
    while path.is_symlink():
        layer.add(path)
        path = path.parent / os.readlink(path)
    layer.add(path)


def _add_libraries(layer: Layer) -> None:
    """The host's libraries that the layer's programs and libraries need, at the paths where they look."""
    files = [entry.path for entry in layer.entries.values() if isinstance(entry, HostFile)]
    for library in libraries(files, [Path(sys.base_prefix, "lib")]):
        # The name that is asked for is often a link; the file has to be there under that name.
        layer.put(str(library), HostFile(library.resolve()))


def _light_requirements() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dependencies: list[str] = project["dependencies"]
    return dependencies


def _closure(requirements: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """The installed distributions that ``requirements`` need, themselves included, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(requirement.name)
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed)
    return [found[name] for name in sorted(found)]
