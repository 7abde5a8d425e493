"""Damaged recipes by the thousand: whatever a file or argument holds, a person gets diagnostics.

What is fed is mostly right, as what people write is: a shipped recipe with some lines lost, doubled, swapped,
indented otherwise or with other words in them.  `SPECULATORS_FUZZ=100000 pytest tests/recipe/test_fuzz.py`
tries as many; a few are enough for every commit.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speculators.recipe.diagnostics import as_json, has_errors, render_all
from speculators.recipe.recipe import load_recipe
from speculators.recipe.schema import load_schema, schema_paths

RECIPES = Path(__file__).parents[2] / "recipes"
INPUTS = int(os.environ.get("SPECULATORS_FUZZ", "300"))
TEXTS = [
    "\n".join(line for line in (RECIPES / name).read_text().splitlines() if line.partition("#")[0].strip())
    for name in ("smollm2-135m-eagle3.yaml", "smollm2-135m-peagle.yaml", "qwen3-8b-eagle3.yaml")
]
KEYS = sorted({str(path[-1]) for path in schema_paths(load_schema())})
PARTS = st.sampled_from(
    [":", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "!x ", "#", "'", '"', "|", ">", "%", "@"]
)
ODD = st.sampled_from(
    ["\t", "\0", "\u00a0", "\u2028", "\ufeff", "\ud83d", "---", "...", "<<: ", "? ", "\r", ""]
)
VALUES = st.sampled_from(
    ["", "~", "null", "true", "on", "0", "-1", "1e400", ".nan", "0x_", "9" * 400, "[]", "{}", "[1, 1]"]
)
WORDS = PARTS | ODD | VALUES | st.sampled_from([*KEYS, "./", "..", "/", "a/b@c"]) | st.text(max_size=6)


class Damage(NamedTuple):
    """One change of a text: what happens to which line, and where in it."""

    kind: str
    line: int
    column: int
    word: str


DAMAGE = st.builds(
    Damage,
    st.sampled_from(["drop", "double", "swap", "indent", "insert", "value", "key", "cut"]),
    st.integers(0, 99),
    st.integers(0, 60),
    WORDS,
)


def damaged(text: str, changes: list[Damage]) -> str:
    lines = text.split("\n")
    for change in changes:
        number = change.line % len(lines)
        line = lines[number]
        column = min(change.column, len(line))
        key, _, _ = line.partition(":")
        if change.kind == "swap":
            lines[number], lines[0] = lines[0], line
        elif change.kind == "cut":
            lines = [*lines[:number], line[:column]]
        else:
            lines[number : number + 1] = {
                "drop": [""],
                "double": [line, line],
                "indent": [" " * (column % 7) + line.lstrip()],
                "insert": [line[:column] + change.word + line[column:]],
                "value": [f"{key}: {change.word}"],
                "key": [line.replace(key.strip() or "x", change.word)],
            }[change.kind]
    return "\n".join(lines)


PATHS = st.sampled_from([".".join(map(str, path)) for path in schema_paths(load_schema())]) | WORDS
OVERRIDES = st.lists(st.builds(lambda path, word: f"{path}={word}", PATHS, WORDS) | WORDS, max_size=2)


@settings(max_examples=INPUTS, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TEXTS), st.lists(DAMAGE, max_size=4), OVERRIDES)
def test_no_damage_gets_past_the_diagnostics(text: str, changes: list[Damage], overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_bytes(damaged(text, changes).encode("utf-8", "surrogatepass"))
        recipe, diagnostics = load_recipe(path, overrides)
    assert (recipe is None) == has_errors(diagnostics)
    for item in diagnostics:
        assert item.line >= 1
        assert item.col >= 1
        assert item.message
    render_all(diagnostics)
    json.dumps([as_json(item) for item in diagnostics])
