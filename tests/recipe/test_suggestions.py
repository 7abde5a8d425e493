"""Did you mean: near spellings, initials, and silence when nothing is near."""

from __future__ import annotations

import pytest

from speculators.recipe.suggestions import did_you_mean, listing, nearest

KEYS = ["learning_rate", "epochs", "weight_decay", "warmup_fraction", "seed"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("epoch", "epochs"),
        ("Learning-Rate", "learning_rate"),
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("temperature", None),
        ("s", None),
    ],
)
def test_the_nearest_key(word: str, meant: str | None) -> None:
    assert nearest(word, KEYS) == meant


def test_initials_that_fit_two_keys_suggest_neither() -> None:
    assert nearest("mt", ["max_tokens", "min_time"]) is None


def test_sentences() -> None:
    assert did_you_mean("epoch", KEYS) == "did you mean 'epochs'?"
    assert did_you_mean("zzz", KEYS) == ""
    assert (listing("a"), listing("ab"), listing("abc", "or")) == ("a", "a and b", "a, b or c")
