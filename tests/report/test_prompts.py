from __future__ import annotations

from typing import Any

from speculators.report.prompts import per_prompt


def sample(arm: str, **specs: tuple[int, int] | None) -> dict[str, Any]:
    rows = [
        {
            "id": name,
            "looping": name == "loop",
            "spec": None if counts is None else {"drafts": counts[0], "accepted": counts[1]},
        }
        for name, counts in specs.items()
    ]
    return {"arm": arm, "requests": rows}


def test_served_counts_are_pooled_and_stand_beside_the_replay() -> None:
    benchmark = {
        "samples": [
            sample("plain", a=None, loop=None),
            sample("draft", a=(10, 2), loop=(10, 9)),
            sample("draft", a=(10, 4), loop=(10, 9)),
        ]
    }
    replay = {"prompts": [{"id": "a", "looping": False, "drafts": 10, "accepted": 3}]}
    assert per_prompt(benchmark, replay) == [
        {
            "id": "a",
            "looping": False,
            "served": {"drafts": 20, "accepted": 6, "acceptance_length": 1.3},
            "replayed": {"drafts": 10, "accepted": 3, "acceptance_length": 1.3},
        },
        {
            "id": "loop",
            "looping": True,
            "served": {"drafts": 20, "accepted": 18, "acceptance_length": 1.9},
            "replayed": None,
        },
    ]


def test_a_request_that_was_not_counted_leaves_its_prompt_out() -> None:
    benchmark = {"samples": [sample("draft", a=(1, 1), b=None), sample("draft", a=(1, 0), b=(1, 1))]}
    assert [row["id"] for row in per_prompt(benchmark, None)] == ["a"]
    assert per_prompt({"samples": []}, None) == []
