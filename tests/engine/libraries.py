"""Which of the host's shared libraries a program needs, without running it.

``ldd`` runs what it looks at, once for each file; a Python environment has hundreds.
"""

from __future__ import annotations

import mmap
import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LOAD, DYNAMIC, INTERPRETER = 1, 2, 3
NEEDED, STRINGS = 1, 5
FLAGS = {"x86_64": "x86-64", "aarch64": "AArch64"}
MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian


def libraries(files: Iterable[Path], folders: Iterable[Path] = ()) -> set[Path]:
    """The libraries that ``files`` need, and those that these need, at the paths where the host has them.

    ``folders`` are looked into as well as the system's own.  A name that is nowhere is left out: it belongs
    to another library of the same package, or to a driver that the host does not have either.
    """
    folders = tuple(folders)
    found: set[Path] = set()
    seen: set[str] = set()
    waiting = list(files)
    while waiting:
        for name in _needed(waiting.pop()):
            if name in seen:
                continue
            seen.add(name)
            places = [*(folder / name for folder in folders), _known().get(name, Path(name))]
            place = next((place for place in places if place.is_absolute() and place.is_file()), None)
            if place:
                found.add(place)
                waiting.append(place)
    return found


def _needed(path: Path) -> list[str]:
    """What the ELF file at ``path`` names: its libraries, and the loader of a program."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _names(content)


def _names(content: mmap.mmap) -> list[str]:
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<IIQQQQ", content, start + n * size) for n in range(count)]
    loads = [(virtual, offset, length) for kind, _, offset, virtual, _, length in segments if kind == LOAD]

    def place(address: int) -> int:
        return next(
            (
                offset + address - virtual
                for virtual, offset, length in loads
                if 0 <= address - virtual < length
            ),
            address,
        )

    def text(offset: int) -> str:
        return content[offset : content.find(b"\0", offset)].decode()

    names = []
    for kind, _, offset, _, _, length in segments:
        if kind == INTERPRETER:
            names.append(text(offset))
        elif kind == DYNAMIC:
            entries = list(struct.iter_unpack("<QQ", content[offset : offset + length - length % 16]))
            strings = next((place(value) for tag, value in entries if tag == STRINGS), None)
            if strings is not None:
                names += [text(strings + value) for tag, value in entries if tag == NEEDED]
    return names


@cache
def _known() -> dict[str, Path]:
    """The system's libraries by name, as its loader sees them."""
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    flag = FLAGS[platform.machine()]
    rows = re.findall(r"^\t(\S+) \((.*?)\) => (\S+)$", listing, re.MULTILINE)
    # The first row of a name is the one that the loader takes.
    return {name: Path(path) for name, flags, path in reversed(rows) if flag in flags}
