"""A lock against what is there now: every change is found at its line, only what is named is renewed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.errors import RecipeError
from speculators.pipeline import lock, lock_changes
from speculators.pipeline.lock import Lock, Pins
from speculators.recipe.yaml_loader import load_yaml
from tests.pipeline.test_lock import FILE, PINS, pins

KINDS = {
    "name": "recipe",
    "recipe": "recipe",
    "tool.version": "tool",
    "tool.sha256": "tool",
    "models.verifier.repository": "model",
    "models.verifier.revision": "model",
    "models.verifier.files.config.json": "model",
    "models.verifier.files.tokenizer.json": "tokenizer",
    "models.verifier.tokenizer": "tokenizer",
    "models.verifier.chat_template": "tokenizer",
    "prompts.benchmark.b.jsonl.rows": "data",
    "prompts.benchmark.b.jsonl.sha256": "data",
    "packages.torch": "package",
    "packages.python": "package",
    "images.engine.digest": "image",
    "images.engine.platform": "image",
    "images.engine.reference": "recipe",
    "images.engine.packages.torch": "package",
}


@settings(max_examples=50, deadline=None)
@given(pins(), st.data())
def test_every_single_change_is_found_at_its_line(
    written: dict[tuple[str, ...], str | int], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(written)))
    text = lock.render(written)
    now = {**written, path: written[path] + 1 if path[-1] == "rows" else f"{written[path]}0"}  # type: ignore[operator]
    (found,) = lock_changes.compare(lock.parse(text, FILE), Pins(now))
    assert (found.path, found.was, found.now) == (path, written[path], now[path])
    assert load_yaml(text.split("\n")[found.mark.line - 1].strip(), "").data == {path[-1]: written[path]}


def test_every_kind_of_pin_has_its_kind() -> None:
    changed = {path: pin + 1 if isinstance(pin, int) else f"{pin}x" for path, pin in PINS.items()}
    found = lock_changes.compare(lock.parse(lock.render(PINS), FILE), Pins(changed))
    assert {one.name: one.kind for one in found} == KINDS


@pytest.mark.parametrize("path", [path for path in PINS if path != lock.TOOL_DIGEST], ids=".".join)
def test_a_pin_that_came_or_went_is_a_difference(path: tuple[str, ...]) -> None:
    fewer = {known: pin for known, pin in PINS.items() if known != path}
    whole = Lock(PINS, lock.parse(lock.render(PINS), FILE).positions)
    (gone,) = lock_changes.compare(whole, Pins(fewer))
    assert (gone.was, gone.now, gone.mark.line > 3) == (PINS[path], None, True)
    (come,) = lock_changes.compare(whole._replace(pins=fewer), Pins(PINS))
    assert (come.was, come.now) == (None, PINS[path])


def test_a_lock_without_the_tools_digest_is_not_stale_for_that() -> None:
    without = lock.parse(lock.render({p: v for p, v in PINS.items() if p != lock.TOOL_DIGEST}), FILE)
    assert lock_changes.compare(without, Pins(PINS)) == []
    other = {**PINS, lock.TOOL_DIGEST: "9" * 64}
    assert [one.name for one in lock_changes.compare(lock.parse(lock.render(PINS), FILE), Pins(other))] == [
        "tool.sha256"
    ]


def test_what_was_not_looked_at_is_no_difference_and_is_kept() -> None:
    seen = {path: pin for path, pin in PINS.items() if path[0] != "images"}
    present = Pins(seen, {}, frozenset({("images",)}))
    stored = lock.parse(lock.render(PINS), FILE)
    assert lock_changes.compare(stored, present) == []
    assert lock_changes.renewed(stored, present) == PINS
    assert ("images", "engine", "digest") not in lock_changes.renewed(stored, Pins(seen))


def test_only_what_is_named_is_updated() -> None:
    stored = lock.parse(lock.render(PINS), FILE)
    now = {path: pin + 1 if isinstance(pin, int) else pin.swapcase() + "0" for path, pin in PINS.items()}
    for name in ("models", "models.verifier", "models.verifier.files.config.json", "prompts.benchmark"):
        wanted = lock_changes.updated(stored, Pins(now), [name])
        chosen = {path for path in PINS if ".".join(path).startswith(name)}
        assert chosen
        assert wanted == {path: (now if path in chosen else PINS)[path] for path in PINS}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("modls.verifier", "did you mean 'models.verifier'?"),
        ("package", "did you mean 'packages'?"),
        ("", "the blocks of a lock are images, models, name, packages, prompts, recipe, tool"),
    ],
)
def test_an_unknown_path_is_refused_with_a_way_out(name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match="the lock has no such pin") as caught:
        lock_changes.updated(lock.parse(lock.render(PINS), FILE), Pins(PINS), [name])
    assert (caught.value.hint, caught.value.exit_code) == (hint, 2)
