"""What a bundle says in place of folders of the machine that it was made on.

Folders name people, customers and machines.  Known ones (the run's folder, the store, the home folder)
are replaced by a word; what the recipe names by an absolute path keeps its last part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from speculators.benchmark.run import STAGE as ROUND
from speculators.stages.table import REPLAY

RUN, STORE, HOME = "RUN", "STORE", "~"


def absolute_paths(data: Any, prefix: str = "") -> dict[str, str]:
    """Every value of plain data that is an absolute path, by its dotted place."""
    if isinstance(data, (dict, list)):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return {
            place: path
            for name, value in items
            for place, path in absolute_paths(value, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: data} if isinstance(data, str) and re.match(r"/[^/\s]", data) else {}


def words_for_paths(
    recipes: Iterable[Mapping[str, Any]],
    steps: Iterable[Mapping[str, Any]],
    run: Path,
    homes: Iterable[Path],
) -> dict[str, str]:
    """What stands in a bundle for which path.

    ``recipes``: the run's, resolved and as given, with what it extends; ``steps``: its stage inputs, that say
    where its folder and its store were when it ran.
    """
    found = {str(run): RUN} | {str(home): HOME for home in homes}
    for step in steps:
        output = PurePosixPath(step["output"])
        if step["stage"] == ROUND:  # <run>/bench/round-01/plain/client
            found[str(output.parents[3])] = RUN
        elif step["stage"] == REPLAY.name:  # <run>/stages/replay/output
            found[str(output.parents[2])] = RUN
        else:  # <home>/store/training/<key>.partial
            found[str(output.parents[1])] = STORE
        for paths in step["files"].values():
            found |= {path: PurePosixPath(path).name for path in paths}
    for recipe in recipes:
        found |= {path: PurePosixPath(path).name for path in absolute_paths(dict(recipe)).values()}
    return {path.rstrip("/"): word for path, word in found.items() if path.rstrip("/")}


def without_paths(content: bytes, words: Mapping[str, str]) -> bytes:
    """``content`` with every path of ``words`` replaced."""
    if not words:
        return content
    longest_first = sorted(words, key=len, reverse=True)
    any_path = "|".join(re.escape(path) for path in longest_first)
    # Not within a longer name: /root is no part of /rootfs nor of a/root.
    pattern = re.compile(rf"(?<![\w.~-])(?:{any_path})(?![\w-])".encode())
    return pattern.sub(lambda found: words[found[0].decode()].encode(), content)
