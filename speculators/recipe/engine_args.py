"""``engine.args`` of a recipe -> arguments of vLLM's command line.

One conversion for the check, the server and whatever else starts vLLM, so that what was checked is
what runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_argv(args: Mapping[str, Any]) -> list[str]:
    """Command-line words for vLLM arguments under their Python names.

    True becomes ``--name``, False ``--no-name``, a list ``--name a b``, a block JSON; null leaves
    the argument out.  A word that begins with a dash is tied to its name by ``=``.
    """
    return [word for name, value in args.items() for word in argument(name, value)]


def argument(name: str, value: Any) -> list[str]:
    """The words of one argument."""
    flag = "--" + name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag] if value else [f"--no-{flag[2:]}"]
    if isinstance(value, list):
        return [flag, *(_word(item) for item in value)]
    word = _word(value)
    return [f"{flag}={word}"] if word.startswith("-") else [flag, word]


def _word(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
