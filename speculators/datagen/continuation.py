"""What an interrupted attempt left behind, and how much of it the next one may trust.

Generation and capture take hours, and a machine may stop at any moment.  Finished work is recorded
piece by piece in the stage's work folder, each record with its own digest and each shard with that of
its file: a continued attempt takes over what is whole, names what is not, and leaves the same files as
one that nobody disturbed.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import file_digest, read_json, value_digest, write_json

__all__ = ["FinishedShard", "finished_shards", "read_record", "record_shard", "remove_others", "write_record"]


class FinishedShard(NamedTuple):
    """A whole shard.  ``entry`` is its entry of the index, which names its ``file`` and ``sha256``.

    ``booked`` is what else its stage must know of it in the end; JSON values only.
    """

    entry: dict[str, Any]
    booked: dict[str, Any]


def finished_shards(stage: str, output: Path, work: Path, count: int) -> dict[int, FinishedShard]:
    """The shards, of ``count``, that an earlier attempt finished and that are still whole, by number.

    Whatever else it left in ``output``, apart from ``work``, is removed.
    """
    found: dict[int, FinishedShard] = {}
    for number in range(count):
        record = read_record(_record_path(work, number))
        if record is not None and _is_whole(stage, output, record["entry"]):
            found[number] = FinishedShard(**record)
    remove_others(output, {work.name, *(shard.entry["file"] for shard in found.values())})
    if found:
        print(f"{stage}: {len(found)} of {count} shards are there already; continuing", flush=True)
    return found


def record_shard(work: Path, number: int, shard: FinishedShard) -> None:
    """Let a later attempt find ``shard``, whose file must be in its place already."""
    write_record(_record_path(work, number), shard._asdict())


def write_record(path: Path, value: Any) -> None:
    """Keep a JSON value for ``read_record``."""
    write_json(path, {"sha256": value_digest(value), "value": value})


def read_record(path: Path) -> Any | None:
    """The value that ``write_record`` kept in ``path``; None if there is none or it is damaged."""
    try:
        record = read_json(path)
        if record["sha256"] == value_digest(record["value"]):
            return record["value"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    print(f"{path}: the record of an earlier attempt is damaged; its work is done again", flush=True)
    return None


def remove_others(folder: Path, kept: Container[str]) -> None:
    """Remove everything in ``folder`` but the entries of these names."""
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _record_path(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.json"


def _is_whole(stage: str, output: Path, entry: dict[str, Any]) -> bool:
    path = output / entry["file"]
    if not path.is_file():
        print(f"{stage}: {path} is missing; it is made again", flush=True)
        return False
    if file_digest(path) != entry["sha256"]:
        print(f"{stage}: {path} differs from its recorded digest; it is made again", flush=True)
        return False
    return True
