from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from speculators.benchmark.rounds import ARMS, Launch, schedule, turns


def test_two_arms_take_turns_at_going_first() -> None:
    assert schedule(3) == [
        Launch(1, "plain"),
        Launch(1, "draft"),
        Launch(2, "draft"),
        Launch(2, "plain"),
        Launch(3, "plain"),
        Launch(3, "draft"),
    ]


def test_three_arms_rotate() -> None:
    assert [launch.arm for launch in schedule(3, ("a", "b", "c"))] == list("abcbcacab")


@given(st.integers(1, 12), st.lists(st.text("abc", min_size=1), min_size=1, max_size=4, unique=True))
def test_each_round_launches_every_arm_once_and_first_places_are_shared_fairly(
    rounds: int, arms: list[str]
) -> None:
    launches = schedule(rounds, arms)
    for number in range(1, rounds + 1):
        assert sorted(one.arm for one in launches if one.round == number) == sorted(arms)
    first = Counter(launches[place * len(arms)].arm for place in range(rounds))
    assert max(first.values()) - min(first.get(arm, 0) for arm in arms) <= 1


def test_a_launch_has_a_folder_of_its_own() -> None:
    assert len({launch.folder for launch in schedule(11)}) == 11 * len(ARMS)
    assert Launch(1, "plain").folder == "round-01/plain"


def test_prompts_are_asked_of_two_arms_in_turn_and_neither_always_goes_first() -> None:
    assert turns(4, 2) == [0, 1, 1, 0, 0, 1, 1, 0]


@given(st.integers(0, 20), st.integers(1, 5))
def test_every_arm_is_asked_each_prompt_once_before_the_next_one(prompts: int, arms: int) -> None:
    order = turns(prompts, arms)
    assert [sorted(order[start : start + arms]) for start in range(0, len(order), arms)] == [
        list(range(arms))
    ] * prompts


@given(st.integers(2, 7))
def test_within_the_prompts_every_arm_follows_every_other_one_equally_often(arms: int) -> None:
    prompts = arms * (1 + arms % 2)
    order = turns(prompts, arms)
    rows = [order[start : start + arms] for start in range(0, len(order), arms)]
    followed = Counter(both for row in rows for both in pairwise(row))
    assert set(followed.values()) == {prompts // arms}
    assert len(followed) == arms * (arms - 1)
