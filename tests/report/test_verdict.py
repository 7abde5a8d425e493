from __future__ import annotations

from typing import Any

from speculators.report.verdict import verdict


def ratio(mean: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "rounds": 1 if low is None else 3}


def rounds(speedup: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Single rounds that scatter around the mean as far as the interval reaches."""
    if speedup is None:
        return []
    if speedup["low"] is None:
        return [{"speedup": speedup["mean"]}]
    return [{"speedup": speedup["low"]}, {"speedup": speedup["mean"]}, {"speedup": speedup["high"]}]


def summary(*speedups: tuple[int, dict[str, Any] | None], **failed: str) -> dict[str, Any]:
    return {
        "speed": [
            {"concurrency": concurrency, "speedup": speedup, "rounds": rounds(speedup)}
            for concurrency, speedup in speedups
        ],
        "checks": [
            {"name": name.replace("_", "-"), "ok": False, "detail": text} for name, text in failed.items()
        ],
    }


def test_faster_says_how_much_and_how_sure() -> None:
    assert verdict(summary((1, ratio(1.21, 1.10, 1.33)))) == (
        "Faster at one request at a time: 1.21 times the plain speed (95% interval 1.10 to 1.33, 3 rounds)."
    )


def test_a_faster_number_of_proposed_tokens_is_given_load_by_load() -> None:
    checks = [{"name": "possible", "ok": True, "detail": ""}]
    speed = summary((1, ratio(1.12, 1.01, 1.24)), (4, ratio(1.05, 0.97, 1.13)))["speed"]
    fewer = {"tokens": 1, "speed": speed, "draft_over_it": ratio(0.86, 0.82, 0.9), "checks": checks}
    text = verdict(summary((1, ratio(0.96, 0.88, 1.05)), (4, ratio(0.9, 0.8, 1.02))) | {"depths": [fewer]})
    assert text.endswith(
        " Over all loads it is faster with 1 proposed token: 1.12 times the plain speed (95% interval 1.01 "
        "to 1.24, 3 rounds) at one request at a time; 1.05 times the plain speed (95% interval 0.97 to 1.13, "
        "3 rounds) at 4 requests at a time."
    )


def test_fewer_tokens_that_certainly_gain_are_given_where_the_drafts_own_do_not() -> None:
    checks = [{"name": "possible", "ok": True, "detail": ""}]
    speed = summary((1, ratio(1.22, 1.08, 1.37)))["speed"]
    fewer = {"tokens": 1, "speed": speed, "overall_speedup": ratio(1.22, 1.08, 1.37), "checks": checks}
    fewer |= {"draft_over_it": ratio(0.92, 0.77, 1.1)}
    text = verdict(summary((1, ratio(1.12, 0.91, 1.39))) | {"depths": [fewer]})
    assert text.endswith(
        " It is certainly faster than plain serving with 1 proposed token: 1.22 times the plain speed (95% "
        "interval 1.08 to 1.37, 3 rounds) at one request at a time."
    )


def test_random_prompts_are_said_to_be_no_real_ones() -> None:
    text = verdict(summary((1, ratio(1.21, 1.10, 1.33))) | {"random_prompts": True})
    assert "The prompts were random text, so acceptance, and speed with it, says nothing of real" in text


def test_a_recipe_that_slows_serving_down_says_so() -> None:
    text = verdict(summary((1, ratio(0.8, 0.7, 0.9)), (4, ratio(0.5, 0.4, 0.6))))
    assert text.startswith("Slower at one request at a time: 0.80 times")
    assert text.endswith(" Speculation makes answers slower than without it: leave it off here.")


def test_mixed_results_are_told_apart_by_load() -> None:
    text = verdict(summary((1, ratio(1.2, 1.1, 1.3)), (4, ratio(0.8, 0.7, 0.9)), (8, ratio(1.0, 0.9, 1.1))))
    assert "Faster at one request" in text
    assert "slower at 4 requests at a time" in text
    assert "no clear difference at 8 requests" in text
    assert "leave it off for those loads." in text
    assert text.endswith("More rounds (benchmark.rounds) make it more certain.")


def test_a_slow_down_in_every_round_is_said_even_when_it_is_not_certain() -> None:
    speed = summary((1, ratio(0.6, 0.1, 3.0)))
    speed["speed"][0]["rounds"] = [{"speedup": 0.9}, {"speedup": 0.4}]
    text = verdict(speed)
    assert text.startswith("Slower, but not certainly, at one request at a time: 0.60 times")
    assert "Nothing measured speaks for turning speculation on here." in text


def test_one_round_claims_no_certainty() -> None:
    text = verdict(summary((1, ratio(1.3))))
    assert text.startswith("Faster, but not certainly, at one request at a time: 1.30 times")
    assert "one round, so nothing is known of the spread" in text


def test_a_broken_comparison_gets_no_verdict() -> None:
    text = verdict(summary((1, ratio(2.0, 1.9, 2.1)), same_work="output tokens differ by 30 %"))
    assert text == "No verdict: the comparison is broken (same-work: output tokens differ by 30 %)."


def test_a_prediction_that_missed_does_not_void_the_measurement() -> None:
    assert verdict(summary((1, ratio(1.2, 1.1, 1.3)), predicted="differs by 9 %")).startswith("Faster")


def test_nothing_measured_is_no_verdict() -> None:
    assert verdict(summary((1, None))).startswith("No verdict")
