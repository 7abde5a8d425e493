from __future__ import annotations

from typing import Any

import pytest

from speculators.report.headline import advice, headline
from tests.report.test_verdict import ratio, summary


@pytest.mark.parametrize(
    ("speedups", "text"),
    [
        ([(1, ratio(1.31, 1.2, 1.4))], "1.31× the plain speed at one request at a time: use it."),
        (
            [(1, ratio(1.31, 1.2, 1.4)), (8, ratio(0.9, 0.8, 0.95))],
            "1.31× the plain speed at one request at a time, 0.90× at 8: use it for one request at a time, "
            "leave it off at 8.",
        ),
        (
            [(2, ratio(0.8, 0.7, 0.9)), (4, ratio(0.84, 0.77, 0.92))],
            "0.80× the plain speed at 2 requests at a time, 0.84× at 4: leave it off.",
        ),
        (
            [(1, ratio(0.93, 0.76, 1.14))],
            "0.93× the plain speed at one request at a time: no difference is shown that is larger than the "
            "noise.",
        ),
        (
            [(1, ratio(1.38)), (4, ratio(0.9))],
            "1.38× the plain speed at one request at a time, 0.90× at 4, in one round, which shows nothing "
            "for sure.",
        ),
    ],
)
def test_the_first_sentence(speedups: list[tuple[int, dict[str, Any]]], text: str) -> None:
    assert headline(summary(*speedups)) == text


@pytest.mark.parametrize(
    ("loads", "text"),
    [
        ([(1, "faster"), (4, "faster"), (8, "slower"), (16, "slower, but not certainly,")],
         "use it up to 4 requests at a time, leave it off at 8 and 16"),
        ([(1, "no clear difference"), (4, "faster"), (8, "faster")],
         "use it at 4 and 8 requests at a time; no gain is shown at 1"),
        ([(1, "faster, but not certainly,"), (4, "slower")], "no gain is shown, and at 4 a loss"),
        ([(1, "no clear difference"), (4, "slower, but not certainly,")],
         "no gain is shown, and at 4 every round was slower"),
        ([(1, "no clear difference"), (4, "slower"), (8, "slower, but not certainly,")],
         "no gain is shown, and at 4 a loss and at 8 every round was slower"),
        ([(1, "faster, but not certainly,")], "no difference is shown that is larger than the noise"),
    ],
)  # fmt: skip
def test_only_what_is_certain_is_advised(loads: list[tuple[int, str]], text: str) -> None:
    assert advice(loads) == text


def beside(
    arm: str, over: dict[str, Any], *speedups: tuple[int, dict[str, Any]], **checks: bool
) -> dict[str, Any]:
    """An arm beside the draft: its speedups, and what the draft is over it."""
    found = [{"name": name, "ok": ok, "detail": ""} for name, ok in checks.items()]
    return {"arm": arm, "speed": summary(*speedups)["speed"], "draft_over_it": over, "checks": found}


AT_ONE, AT_FOUR = (1, ratio(1.6, 1.4, 1.8)), (4, ratio(1.3, 1.1, 1.5))
NGRAM = beside("ngram", ratio(0.75, 0.6, 0.9), AT_ONE, possible=True)


@pytest.mark.parametrize(
    ("arms", "end"),
    [
        (
            [NGRAM],
            "; ngram, which needs no training, is faster: 1.60× the plain speed at one request at a time.",
        ),
        (
            [NGRAM, beside("suffix", ratio(0.7, 0.6, 0.8), (1, ratio(1.7, 1.5, 1.9)))],
            "; suffix, which needs no training, is faster: 1.70× the plain speed at one request at a time.",
        ),
        (
            [beside("ngram", ratio(0.75, 0.6, 0.9), AT_ONE, AT_FOUR)],
            "; over all loads ngram, which needs no training, is faster: 1.60× the plain speed at one "
            "request at a time, 1.30× at 4.",
        ),
        ([beside("ngram", ratio(0.9, 0.7, 1.1)), beside("suffix", ratio(1.2, 1.1, 1.3))], ": use it."),
        ([beside("ngram", ratio(0.9))], ": use it."),
        ([beside("ngram", ratio(0.75, 0.6, 0.9), possible=False)], ": use it."),
    ],
)
def test_who_reads_no_further_learns_of_the_faster_arm_without_training(
    arms: list[dict[str, Any]], end: str
) -> None:
    assert headline(summary((1, ratio(1.31, 1.2, 1.4))) | {"extra_arms": arms}).endswith(end)


def test_who_reads_no_further_learns_of_a_faster_number_of_proposed_tokens() -> None:
    fewer = {**beside("draft-1", ratio(0.8, 0.7, 0.9), AT_ONE, AT_FOUR), "tokens": 1}
    two = {**beside("draft-2", ratio(0.9, 0.7, 1.1), AT_ONE), "tokens": 2}
    one = summary((1, ratio(1.31, 1.2, 1.4))) | {"depths": [fewer, two]}
    assert headline(one).endswith(
        ": use it; over all loads with 1 proposed token it is faster: 1.60× the plain speed at one request "
        "at a time, 1.30× at 4."
    )
    faster = headline(one | {"extra_arms": [beside("ngram", ratio(0.7, 0.6, 0.8), AT_ONE)]})
    assert "; ngram, which needs no training, is faster" in faster


@pytest.mark.parametrize(
    ("draft", "over_all", "end"),
    [
        (ratio(1.12, 0.91, 1.39), ratio(1.22, 1.08, 1.37),
         "larger than the noise; a gain is shown with 1 proposed token: 1.60× the plain speed at one request "
         "at a time."),
        (ratio(1.12, 0.91, 1.39), ratio(1.22, 0.99, 1.45), "shown that is larger than the noise."),
        (ratio(1.31, 1.2, 1.4), ratio(1.35, 1.2, 1.5), ": use it."),
    ],
    ids=["certain", "not certain", "nor needed"],
)  # fmt: skip
def test_a_gain_of_fewer_tokens_is_told_where_the_drafts_own_is_not_shown(
    draft: dict[str, Any], over_all: dict[str, Any], end: str
) -> None:
    arm = beside("draft-1", ratio(0.92, 0.77, 1.1), AT_ONE)
    fewer = {**arm, "tokens": 1, "overall_speedup": over_all}
    assert headline(summary((1, draft)) | {"depths": [fewer]}).endswith(end)


def test_a_gain_without_training_is_told_where_the_drafts_own_is_not_shown() -> None:
    arm = {**beside("ngram", ratio(0.92, 0.77, 1.1), AT_ONE), "overall_speedup": ratio(1.22, 1.08, 1.37)}
    found = headline(summary((1, ratio(1.12, 0.91, 1.39))) | {"extra_arms": [arm]})
    assert "; a gain is shown by ngram, which needs no training: 1.60× the plain speed" in found


def test_nothing_is_said_of_a_broken_or_empty_comparison() -> None:
    assert headline(summary((1, ratio(2.0, 1.9, 2.1)), same_work="30 %")).startswith("No verdict")
    assert headline(summary((1, None))).startswith("No verdict")
