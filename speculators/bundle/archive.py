"""The tar of a bundle: one way to write it, and a reader that takes nothing else.

The archive is a function of its members' names and bytes: plain files, sorted behind their checksums, with
fixed modes and no times or owners.  So the reader can say of every byte whether it belongs there: it compares
each header with the one that the writer would have written.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from speculators.documents import CHUNK_BYTES
from speculators.errors import RecipeError

SUFFIX = ".speculators.tar"
SUMS_NAME = "SHA256SUMS"
MAGIC = b"ustar"
BLOCK = tarfile.BLOCKSIZE
#: The largest member that is read into memory; weights and the like are only streamed.
DOCUMENT_BYTES = 64 << 20
SUMS_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
#: What no name may hold: control characters, and what sha256sum would have to escape.
ODD = re.compile(r"[\x00-\x1f\x7f\\]")

Content = bytes | Path


class DamagedBundleError(RecipeError):
    """A bundle is not as it was written; the message names the file in it."""

    rule = "bundle-damaged"


class Member(NamedTuple):
    """One file of an archive: where its bytes lie, and their digest."""

    name: str
    offset: int
    size: int
    sha256: str


class Archive(NamedTuple):
    """A whole, canonical archive."""

    path: Path
    members: dict[str, Member]

    def read(self, name: str) -> bytes:
        """The bytes of a document.

        Raises:
            DamagedBundleError: there is none of this name, or it is too large to be one.
        """
        if name not in self.members:
            raise DamagedBundleError(f"{self.path.name}: {name} is missing")
        member = self.members[name]
        if member.size > DOCUMENT_BYTES:
            size = f"{member.size} bytes; no document has more than {DOCUMENT_BYTES}"
            raise DamagedBundleError(f"{self.path.name}: {name} has {size}")
        with self.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def copy(self, name: str, target: Path) -> None:
        """Write one member to ``target``."""
        member = self.members[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("rb") as file, target.open("wb") as out:
            file.seek(member.offset)
            for chunk in _chunks(file, member.size):
                out.write(chunk)


def name_fault(name: str) -> str:
    """Why ``name`` cannot be a member's; empty when it can."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    if ".." in parts:
        return "a path that leaves the bundle"
    if "" in parts or "." in parts or ODD.search(name):
        return "not a plain relative path"
    return ""


def header(name: str, size: int) -> bytes:
    """The one header of a member.

    Raises:
        ValueError: USTAR has no room for the name or the size.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


def sums_text(digests: Mapping[str, str]) -> str:
    """``SHA256SUMS`` as ``sha256sum -c`` reads it."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def write_archive(path: Path, contents: Mapping[str, Content]) -> None:
    """Write ``contents`` by name, whole or not at all.

    Raises:
        RecipeError: a name or a size that the format has no room for.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as out:
            for name in sorted(contents, key=_order):
                _write_member(out, name, contents[name])
            out.write(b"\0" * _end_bytes(out.tell()))
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_member(out: IO[bytes], name: str, content: Content) -> None:
    if fault := name_fault(name):
        raise RecipeError(f"{name!r} is {fault}", rule="bundle-name")
    with _opened(content) as (file, size):
        try:
            out.write(header(name, size))
        except ValueError as error:
            hint = "give the file a shorter name, or leave weights of more than 8 GiB out"
            message = f"{name} ({size} bytes) does not fit into a tar: {error}"
            raise RecipeError(message, hint=hint, rule="bundle-name") from error
        for chunk in _chunks(file, size):
            out.write(chunk)
        out.write(b"\0" * _padding(size))


def read_archive(path: Path) -> Archive:
    """The members of the archive in ``path``; every byte of it was looked at.

    Raises:
        RecipeError: it is something else than an archive.
        DamagedBundleError: naming the member that is not as ``write_archive`` writes it.
        OSError: the file cannot be read.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(path, file, length)
        while (member := reader.next()) is not None:
            reader.members[member.name] = member
        reader.require_end()
    return Archive(path, reader.members)


class _Reader:
    """One pass over an archive."""

    def __init__(self, path: Path, file: IO[bytes], length: int) -> None:
        self.path, self.file, self.length = path, file, length
        self.members: dict[str, Member] = {}
        self.expected: list[str] = [SUMS_NAME]
        self.last = ""

    def next(self) -> Member | None:
        start = self.file.tell()
        block = self.file.read(BLOCK)
        if len(block) < BLOCK:
            self.refuse(self.last or SUMS_NAME, "the archive ends in the middle")
        if start == 0 and not block.startswith(SUMS_NAME.encode()) and MAGIC not in block:
            raise RecipeError(
                f"{self.path.name}: not a bundle: no tar archive",
                hint="give the file that `speculators bundle RUN` wrote",
                rule="no-bundle",
            )
        if not any(block):
            self.file.seek(start)
            return None
        info = self.parsed(block)
        self.check(info, block)
        offset, digest = self.file.tell(), hashlib.sha256()
        for chunk in _chunks(self.file, info.size):
            digest.update(chunk)
        if any(self.file.read(_padding(info.size))):
            self.refuse(info.name, "the padding after it is not empty")
        self.last = info.name
        member = Member(info.name, offset, info.size, digest.hexdigest())
        if info.name == SUMS_NAME:
            self.expect(member)
        return member

    def parsed(self, block: bytes) -> tarfile.TarInfo:
        """The header of the next member, if its checksum is right."""
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError):  # not UTF-8 is a ValueError
            self.refuse(self.should_be(), "its header is damaged")

    def check(self, info: tarfile.TarInfo, block: bytes) -> None:
        if not info.isreg():
            self.refuse(info.name, "it is no plain file, but a link, folder or device")
        if fault := name_fault(info.name):
            self.refuse(repr(info.name), f"the name is {fault}")
        if info.name in self.members:
            self.refuse(info.name, "it is there twice")
        if self.last and _order(info.name) < _order(self.last):
            self.refuse(info.name, f"it comes after {self.last}: members are sorted")
        parents = (info.name[: found.start()] for found in re.finditer("/", info.name))
        if any(parent in self.members for parent in parents):
            self.refuse(info.name, "it lies below another file")
        if not 0 <= info.size <= self.length - self.file.tell():
            self.refuse(info.name, f"it claims {info.size} bytes, more than the archive has")
        if block != _header_or_empty(info):
            self.refuse(info.name, "its header is not as 'speculators bundle' writes it")

    def expect(self, sums: Member) -> None:
        """Learn from SHA256SUMS which members follow, to be able to name one whose header is damaged."""
        if sums.size > DOCUMENT_BYTES:
            self.refuse(SUMS_NAME, f"it has {sums.size} bytes")
        text = Archive(self.path, {SUMS_NAME: sums}).read(SUMS_NAME).decode(errors="replace")
        found = (SUMS_LINE.fullmatch(line) for line in text.splitlines())
        self.expected += [match[2] for match in found if match]

    def should_be(self) -> str:
        place = len(self.members)
        return self.expected[place] if place < len(self.expected) else f"the member after {self.last}"

    def require_end(self) -> None:
        start = self.file.tell()
        for chunk in _chunks(self.file, self.length - start):
            if any(chunk):
                self.refuse(self.should_be(), "the archive has other bytes where it or the end should be")
        if self.length - start != _end_bytes(start):
            self.refuse(self.should_be(), f"the archive has {self.length - start} empty bytes at its end")

    def refuse(self, name: str, fault: str) -> NoReturn:
        raise DamagedBundleError(f"{self.path.name}: {name}: {fault}")


def _order(name: str) -> tuple[bool, str]:
    """The checksums come first: they say which members follow."""
    return name != SUMS_NAME, name


def _header_or_empty(info: tarfile.TarInfo) -> bytes:
    try:
        return header(info.name, info.size)
    except ValueError:
        return b""


def _padding(size: int) -> int:
    return -size % BLOCK


def _end_bytes(offset: int) -> int:
    """Two empty blocks, and what fills the last record, as every tar has it."""
    return 2 * BLOCK + -(offset + 2 * BLOCK) % tarfile.RECORDSIZE


@contextmanager
def _opened(content: Content) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes and size of a content."""
    if isinstance(content, bytes):
        yield io.BytesIO(content), len(content)
        return
    with content.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of ``file``."""
    while size:
        chunk = file.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise OSError("the file became shorter while it was read")
        size -= len(chunk)
        yield chunk
