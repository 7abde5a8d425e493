"""Container images written by our own hand: the same files always give the same bytes.

One tar is both a docker-archive (``manifest.json``) and an OCI layout (``index.json``), so every engine loads
it, and what an engine will call the image is known before one has seen it: the digest of its config, or of
its manifest where the engine keeps images the OCI way.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import platform
import re
import stat
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

#: The time of every file; not 0, because zip archives cannot hold years before 1980.
WHEN = 315532800
CREATED = "1980-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: Top-level names that are links into /usr; a file below one has one place only.
MERGED = ("bin", "sbin", "lib", "lib64")
CACHE = "__pycache__"
CHUNK = 1 << 20
EXECUTABLE, PLAIN = 0o755, 0o644
#: Folders that everybody may write to, whichever layer names them.
SHARED = dict.fromkeys(("tmp", "var/tmp"), 0o1777)


class Folder(NamedTuple):
    mode: int = EXECUTABLE


class Link(NamedTuple):
    to: str


class Text(NamedTuple):
    content: bytes
    mode: int = PLAIN


class HostFile(NamedTuple):
    path: Path


Entry = Folder | Link | Text | HostFile


class Layer:
    """The files of one layer by their path inside; the order in which they are added says nothing."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def put(self, target: str, entry: Entry) -> None:
        """One entry at absolute path ``target``, and the folders above it."""
        place = _merged(target)
        parent = os.path.dirname(place)
        if parent and not isinstance(self.entries.get(parent), Folder):
            self.put(f"/{parent}", Folder(SHARED.get(parent, EXECUTABLE)))
        self.entries[place] = entry

    def add(self, source: Path, target: str | None = None) -> None:
        """The host's file or link ``source`` as it is; a Python file brings its compiled form along."""
        place = str(source) if target is None else target
        if source.is_symlink():
            self.put(place, Link(os.readlink(source)))
        elif source.is_file():
            self.put(place, HostFile(source))
            self._add_compiled(source, place)
        elif source.is_dir():
            self.put(place, Folder())

    def add_tree(self, source: Path, target: str | None = None, *, without: Iterable[str] = ()) -> None:
        """All below ``source``; ``without``: patterns of names that stay behind."""
        place = str(source) if target is None else target
        left = re.compile("|".join(fnmatch.translate(name) for name in (CACHE, *without)))
        self.add(source, place)
        for folder, folders, files in os.walk(source):
            folders[:] = [name for name in folders if not left.match(name)]
            inside = os.path.join(place, os.path.relpath(folder, source))
            for name in (*folders, *files):
                if not left.match(name):
                    self.add(Path(folder, name), os.path.normpath(os.path.join(inside, name)))

    def _add_compiled(self, source: Path, target: str) -> None:
        """Without it, an import of torch compiles thousands of files anew in every container."""
        if source.suffix != ".py":
            return
        name = f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        content = _compiled(source, source.parent / CACHE / name)
        if content:
            self.put(os.path.join(os.path.dirname(target), CACHE, name), Text(content))


class Built(NamedTuple):
    """A written image: what it is called, and what every engine will say it is.

    ``config`` and ``manifest`` are digests; an engine's Id of the image is one of them.  ``layers``: digests
    of the uncompressed layers, equal on every engine.
    """

    reference: str
    archive: Path
    config: str
    manifest: str
    layers: tuple[str, ...]


def write_image(
    archive: Path, repository: str, layers: Iterable[Layer], settings: dict[str, Any] | None = None
) -> Built:
    """Write ``layers`` as an image of ``repository`` to ``archive``; nothing is compressed.

    Its tag comes from its digest, so that loading one image never takes the name from another.
    """
    architecture = ARCHITECTURES[platform.machine()]
    with archive.open("wb") as file:
        sizes = dict(_write_layer(file, layer) for layer in layers)
        config = _canonical(
            {
                "architecture": architecture,
                "os": "linux",
                "created": CREATED,
                "config": settings or {},
                "rootfs": {"type": "layers", "diff_ids": list(sizes)},
                "history": [{"created": CREATED, "created_by": "speculators tests"} for _ in sizes],
            }
        )
        reference = f"{repository}:{_digest(config).partition(':')[2][:12]}"
        media = "application/vnd.oci.image"
        manifest = _canonical(
            {
                "schemaVersion": 2,
                "mediaType": f"{media}.manifest.v1+json",
                "config": _descriptor(f"{media}.config.v1+json", _digest(config), len(config)),
                "layers": [
                    _descriptor(f"{media}.layer.v1.tar", digest, size) for digest, size in sizes.items()
                ],
            }
        )
        name = {
            "io.containerd.image.name": _full_name(reference),
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        }
        entry = _descriptor(f"{media}.manifest.v1+json", _digest(manifest), len(manifest))
        index = {"schemaVersion": 2, "mediaType": f"{media}.index.v1+json"}
        for place, content in {
            _blob(_digest(config)): config,
            _blob(_digest(manifest)): manifest,
            "oci-layout": _canonical({"imageLayoutVersion": "1.0.0"}),
            "index.json": _canonical({**index, "manifests": [{**entry, "annotations": name}]}),
            "manifest.json": _canonical(
                [
                    {
                        "Config": _blob(_digest(config)),
                        "RepoTags": [reference],
                        "Layers": [_blob(digest) for digest in sizes],
                    }
                ]
            ),
        }.items():
            file.write(_header(place, len(content)) + content + _padding(len(content)))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    return Built(reference, archive, _digest(config), _digest(manifest), tuple(sizes))


class _Hashing(io.RawIOBase):
    """Passes on what is written to it, and knows its digest and size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, content: Any) -> int:
        self._hash.update(content)
        self.size += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self.size

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _write_layer(file: BinaryIO, layer: Layer) -> tuple[str, int]:
    """Write ``layer`` in one pass: its own name, which is its digest, is filled in afterwards."""
    start = file.tell()
    file.write(bytes(tarfile.BLOCKSIZE))
    sink = _Hashing(file)
    write_tar(sink, layer)
    file.write(_padding(sink.size))
    end = file.tell()
    file.seek(start)
    file.write(_header(_blob(sink.digest), sink.size))
    file.seek(end)
    return sink.digest, sink.size


def write_tar(file: Any, layer: Layer) -> None:
    """Write the files of ``layer`` to ``file`` as a plain tar, in the order of their names."""
    # The stubs do not know copybufsize, which TarFile has taken since Python 3.5.
    with tarfile.open(  # type: ignore[call-overload]
        fileobj=file, mode="w|", bufsize=CHUNK, format=tarfile.GNU_FORMAT, copybufsize=CHUNK
    ) as tar:
        for place in sorted(layer.entries):
            _write_entry(tar, place, layer.entries[place])


def _write_entry(tar: tarfile.TarFile, place: str, entry: Entry) -> None:
    info = tarfile.TarInfo(place)
    info.mtime = WHEN
    if isinstance(entry, Folder):
        info.type, info.mode = tarfile.DIRTYPE, entry.mode
        tar.addfile(info)
    elif isinstance(entry, Link):
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.to
        tar.addfile(info)
    elif isinstance(entry, Text):
        info.size, info.mode = len(entry.content), entry.mode
        tar.addfile(info, io.BytesIO(entry.content))
    else:
        with entry.path.open("rb") as file:
            status = os.fstat(file.fileno())
            info.size = status.st_size
            info.mode = EXECUTABLE if status.st_mode & stat.S_IXUSR else PLAIN
            tar.addfile(info, file)


def _compiled(source: Path, cache: Path) -> bytes:
    """The host's compiled form of ``source``, made to fit the time that its copy has; empty if it is stale.

    The first 16 bytes are the interpreter's number, flags, and the source's time and size (PEP 552).
    """
    try:
        content = cache.read_bytes()
    except OSError:
        return b""
    status = source.stat()
    expected = _words(0, int(status.st_mtime), status.st_size)
    return content[:4] + _words(0, WHEN, status.st_size) + content[16:] if content[4:16] == expected else b""


def _words(*numbers: int) -> bytes:
    return b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)


def _merged(target: str) -> str:
    place = os.path.normpath(target).lstrip("/")
    top, slash, _ = place.partition("/")
    return f"usr/{place}" if slash and top in MERGED else place


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, WHEN
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _full_name(reference: str) -> str:
    """The name with the registry and folder that engines read into a short one."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first):
        return reference
    return f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"
