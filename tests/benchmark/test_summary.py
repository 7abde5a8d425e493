from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from speculators.benchmark.checks import broken, hopeless
from speculators.benchmark.profiles import profiles
from speculators.benchmark.stability import warnings
from speculators.benchmark.summary import summarise
from speculators.report.verdict import verdict
from tests.benchmark.conftest import plain_rows, sample, spec

Make = Callable[..., dict[str, Any]]
REPLAY = {
    "all": {"acceptance_length": 1.617, "per_position": [0.4, 0.217], "drafts": 20},
    "without_looping": {"acceptance_length": 1.25, "per_position": [0.25, 0.0], "drafts": 16},
}


def check(summary: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in summary["checks"] if one["name"] == name)
    return found


def test_speedup_is_the_mean_ratio_of_rounds_and_not_of_sums(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 12), (20, 24), (5, 6)]))
    speed = summary["speed"][0]
    assert [one["speedup"] for one in speed["rounds"]] == pytest.approx([1.2, 1.2, 1.2])
    assert speed["speedup"] == {
        "mean": pytest.approx(1.2),
        "low": pytest.approx(1.2),
        "high": pytest.approx(1.2),
        "rounds": 3,
    }
    assert summary["overall_speedup"]["mean"] == pytest.approx(1.2)


def test_looping_prompts_are_left_out_of_both_arms(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 14)]))
    speed = summary["speed"][0]
    assert speed["looping"] == ["loops"]
    assert speed["speedup"]["mean"] == pytest.approx(1.4)
    assert speed["without_looping"]["speedup"]["mean"] == pytest.approx(1 / 0.8)
    assert summary["overall_speedup_without_looping"]["mean"] == pytest.approx(1 / 0.8)


def test_without_a_looping_prompt_both_columns_are_the_same(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 14)])
    for one in document["samples"]:
        one["requests"] = [{**row, "looping": False} for row in one["requests"]]
    speed = summarise(document)["speed"][0]
    assert speed["without_looping"] == {name: speed[name] for name in ("rounds", "speedup", "latencies")}


def test_latencies_without_looping_are_those_of_the_other_requests(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 14)])
    for row, value in zip(document["samples"][0]["requests"], (10.0, 30.0, 500.0), strict=True):
        row["ttft_ms"] = value
    plain = summarise(document)["speed"][0]["without_looping"]["latencies"]["plain"]
    assert plain["ttft_ms"]["p50"] == 20.0
    assert plain["itl_ms"] is None


def test_acceptance_is_pooled_with_and_without_looping(benchmark_document: Make) -> None:
    acceptance = summarise(benchmark_document([(10, 12), (10, 12)]))["acceptance"]
    assert acceptance["served"]["acceptance_length"] == pytest.approx(1 + 12 / 20)
    assert acceptance["served"]["per_position"] == pytest.approx([8 / 20, 4 / 20])
    assert acceptance["served"]["drafts"] == 40
    assert acceptance["served_without_looping"]["acceptance_length"] == pytest.approx(1 + 4 / 16)


def test_a_step_costs_as_many_plain_ones_as_its_tokens_exceed_the_speedup(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 12), (10, 14)]))
    speedup = summary["speed"][0]["speedup"]
    (row,) = summary["breaks_even"]
    assert row["mean"] * speedup["mean"] == pytest.approx(
        summary["acceptance"]["served"]["acceptance_length"]
    )
    assert row["low"] * speedup["high"] == pytest.approx(row["high"] * speedup["low"])
    assert row["low"] < row["mean"] < row["high"]
    (row,) = summarise(benchmark_document([(10, 12)]))["breaks_even"]
    assert (row["low"], row["high"]) == (None, None)


def test_a_step_without_a_proposal_is_a_step_that_costs(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 12), (10, 12)])
    often = summarise(document)["breaks_even"][0]["mean"]
    for one in document["samples"]:
        one["output_tokens"] *= 2
    assert summarise(document)["breaks_even"][0]["mean"] < often


def test_without_a_replay_nothing_is_predicted(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 12)]))
    assert summary["acceptance"]["predicted"] is None
    assert summary["acceptance"]["difference"] is None
    assert check(summary, "predicted")["ok"] is None


def test_predicted_beside_served(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 12)]), REPLAY)
    assert summary["acceptance"]["difference"] == pytest.approx(1.617 / 1.6 - 1)
    assert check(summary, "predicted")["ok"] is True
    far = {**REPLAY, "all": {**REPLAY["all"], "acceptance_length": 1.9}}
    assert check(summarise(benchmark_document([(10, 12)]), far), "predicted")["ok"] is False


def test_a_draft_that_is_not_replayed_says_why(benchmark_document: Make) -> None:
    summary = summarise(
        benchmark_document([(10, 12)]), {"not_predicted": "drafting of dflash is not replayed"}
    )
    assert check(summary, "predicted") == {
        "name": "predicted",
        "ok": None,
        "detail": "drafting of dflash is not replayed",
    }


def test_texts_are_compared_with_plain_of_the_same_round_and_plain_with_itself(
    benchmark_document: Make,
) -> None:
    match = summarise(benchmark_document([(10, 12), (10, 12)]))["exact_match"]
    assert match["draft_against_plain"] == {"rate": pytest.approx(2 / 3), "compared": 6}
    assert match["draft_against_plain_without_looping"] == {"rate": 1.0, "compared": 4}
    assert match["plain_against_plain"] == {"rate": 1.0, "compared": 3}
    assert summarise(benchmark_document([(10, 12)]))["exact_match"]["plain_against_plain"] == {
        "rate": None,
        "compared": 0,
    }


def test_latencies_are_averaged_over_rounds_and_missing_ones_stay_missing(benchmark_document: Make) -> None:
    latencies = summarise(benchmark_document([(10, 12), (10, 12)]))["speed"][0]["latencies"]["plain"]
    assert latencies["ttft_ms"]["p50"] == 150.0
    assert latencies["latency_ms"] is None


def test_a_sound_comparison_passes_all_checks(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 12), (10, 12)]), REPLAY)
    assert [one["ok"] for one in summary["checks"]] == [True] * 7
    assert broken(summary["checks"]) == []


def test_a_failed_request_breaks_the_comparison(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 12)])
    document["samples"][1] |= {"completed": 2, "errored": 1}
    failed = broken(summarise(document)["checks"])
    assert [one["name"] for one in failed] == ["requests"]
    assert "round 1 draft at 1: 2 of 3" in failed[0]["detail"]


def test_a_failed_request_of_an_arm_beside_takes_nothing_from_the_drafts_verdict(
    benchmark_document: Make,
) -> None:
    document = benchmark_document([(10, 12)])
    document["samples"].append({**document["samples"][1], "arm": "ngram", "completed": 2, "errored": 1})
    found = summarise(document)
    assert broken(found["checks"]) == hopeless(document) == []
    (failed,) = [one for one in found["extra_arms"][0]["checks"] if one["ok"] is False]
    assert (failed["name"], failed["detail"]) == ("requests", "round 1 ngram at 1: 2 of 3 completed")


def test_arms_that_did_different_work_are_not_compared(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 12)])
    document["samples"][1]["output_tokens"] = 29
    assert [one["name"] for one in broken(summarise(document)["checks"])] == ["same-work"]


@pytest.mark.parametrize(("place", "counters"), [(0, {"drafts": 1}), (1, None)])
def test_speculation_must_be_where_it_belongs(benchmark_document: Make, place: int, counters: Any) -> None:
    document = benchmark_document([(10, 12)])
    if counters:
        counters = {"drafts": 1, "draft_tokens": 2, "accepted": 0, "per_position": [0, 0]}
    document["samples"][place]["counters"] = counters
    assert "speculating" in [one["name"] for one in broken(summarise(document)["checks"])]


def test_a_speedup_beyond_the_acceptance_length_is_impossible(benchmark_document: Make) -> None:
    summary = summarise(benchmark_document([(10, 17), (10, 17.1)]))
    assert [one["name"] for one in broken(summary["checks"])] == ["possible"]
    # one round proves nothing, so nothing is claimed; but a reader is warned
    alone = summarise(benchmark_document([(10, 17)]))
    assert check(alone, "possible")["ok"] is None
    said = [line for line in alone["warnings"] if "something else slowed plain serving" in line]
    assert said[0].startswith("at 1: 1.70 times the plain speed is more than an acceptance length of 1.")
    assert not any("slowed" in line for line in summarise(benchmark_document([(10, 12)]))["warnings"])


def test_the_two_ways_of_counting_must_agree(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 12)])
    document["samples"][1]["counters"]["drafts"] += 1
    summary = summarise(document)
    assert check(summary, "counters")["ok"] is False
    document["samples"][1]["requests"][0]["spec"] = None
    assert check(summarise(document), "counters")["ok"] is None
    assert summarise(document)["acceptance"]["served_without_looping"] is None


def with_twins(document: dict[str, Any], name: str, plain: float, draft: float) -> dict[str, Any]:
    """The document with both arms once more, at these speeds; the draft accepts nothing there."""
    for one in list(document["samples"]):
        speed = plain if one["arm"] == "plain" else draft
        rows = [{**row, "spec": row["spec"] and spec(row["spec"]["drafts"], 0, 0)} for row in one["requests"]]
        twin = sample(one["round"], f"{name}-{one['arm']}", 1, speed, rows)
        document["samples"].append(twin)
    return document


def test_a_prefix_cache_is_shown_beside_serving_without(benchmark_document: Make) -> None:
    document = with_twins(benchmark_document([(10, 12), (10, 12)]), "cached", 20, 19)
    one = summarise(document)["cached"]
    assert one["overall_speedup"]["mean"] == pytest.approx(0.95)
    assert (one["alone"]["mean"], one["both"]["mean"]) == (pytest.approx(2), pytest.approx(1.9))
    # 12 of 20 drafts' tokens were accepted without the cache, none with it.
    assert one["acceptance"]["acceptance_length"] == 1
    assert one["acceptance_change"] == pytest.approx(1 / (1 + 12 / 20) - 1)
    assert one["exact_match"]["rate"] == pytest.approx(2 / 3)
    text = verdict(summarise(document))
    assert "With the prefix cache on it gives 0.95 times the plain speed" in text
    assert "its acceptance length changes by -37.5%" in text


def test_drawn_answers_need_not_be_equal(benchmark_document: Make) -> None:
    document = with_twins(benchmark_document([(10, 12), (10, 12)]), "sampled", 10, 9)
    document["samples"][-1]["output_tokens"] = 90
    found = summarise({**document, "sampling": {"temperature": 0.6}})
    assert found["sampled"]["exact_match"] is None
    assert [check["name"] for check in found["sampled"]["checks"]] == ["requests", "possible"]
    assert found["sampling"] == {"temperature": 0.6}
    assert found["cached"] is None


def test_own_loads_of_guidellm_are_means_over_rounds(benchmark_document: Make) -> None:
    document = benchmark_document([(10, 12), (10, 12)])
    document["benchmark"]["slo"] = {"latency_ms": 900}
    loads = [("synchronous", None, 0.5), ("throughput", None, 2.0), ("constant", 1.0, 1.0)]
    document["profiles"] = [
        {
            **sample(number, arm, 1, 10.0 * rate * number, plain_rows(), wall_seconds=3 / rate),
            "profile": "sweep",
            "strategy": strategy,
            "rate": steady,
            "requests_per_second": rate,
        }
        for number in (1, 2)
        for arm in ("plain", "draft")
        for strategy, steady, rate in loads
    ]
    found = profiles(document)
    assert [(one["arm"], one["strategy"], one["rate"]) for one in found] == [
        (arm, strategy, steady) for arm in ("plain", "draft") for strategy, steady, _ in loads
    ]
    assert found[1]["output_tokens_per_second"] == pytest.approx((20 + 40) / 2)
    assert found[1]["latencies"]["ttft_ms"]["p50"] == pytest.approx(150)
    assert found[1]["service"]["goodput"]["share"] == 0
    document["profiles"][0]["errored"] = document["profiles"][6]["errored"] = 2
    assert [one["failed"] for one in profiles(document)] == [4, 0, 0, 0, 0, 0]
    assert "4 requests of plain failed under sweep: its figures are of the others" in warnings(document)


def with_ngram(document: dict[str, Any], *speeds: float) -> dict[str, Any]:
    """The document with a third arm, which says the same as plain."""
    counts = {"drafts": 8, "draft_tokens": 16, "accepted": 12, "per_position": [8, 4]}
    plain = [one for one in document["samples"] if one["arm"] == "plain"]
    document["samples"] += [
        {**one, "arm": "ngram", "output_tokens_per_second": speed, "counters": counts}
        for one, speed in zip(plain, speeds, strict=True)
    ]
    return document


def test_a_draft_is_compared_with_what_needs_no_training(benchmark_document: Make) -> None:
    summary = summarise(with_ngram(benchmark_document([(10, 12), (20, 24)]), 15, 30))
    one = summary["extra_arms"][0]
    assert one["overall_speedup"]["mean"] == pytest.approx(1.5)
    assert one["draft_over_it"]["mean"] == pytest.approx(1.2 / 1.5)
    assert one["acceptance"]["acceptance_length"] == pytest.approx(2.5)
    # 30 tokens in 3 answers: 3 come from prompts, 12 were accepted, so 15 steps made the other 15.
    assert one["tokens_per_step"] == pytest.approx(1 + 12 / 15)
    assert one["exact_match"]["rate"] == 1.0
    assert summary["overall_speedup"]["mean"] == pytest.approx(1.2)
    assert verdict(summary).endswith("It loses to ngram, which needs no training: 0.80 times its speed.")


def test_the_draft_is_compared_with_itself_at_other_numbers_of_proposed_tokens(
    benchmark_document: Make,
) -> None:
    document = with_ngram(benchmark_document([(10, 12), (20, 24)]), 15, 30)
    for one in document["samples"]:
        one["arm"] = {"ngram": "draft-1"}.get(one["arm"], one["arm"])
    summary = summarise(document)
    (one,) = summary["depths"]
    assert (one["tokens"], summary["extra_arms"]) == (1, [])
    assert one["overall_speedup"]["mean"] == pytest.approx(1.5)
    assert "It is faster with 1 proposed token: 1.50 times the plain speed" in verdict(summary)


def test_repeating_now_and_then_gives_no_more_speed_than_all_steps_allow(benchmark_document: Make) -> None:
    summary = summarise(with_ngram(benchmark_document([(10, 12), (20, 24)]), 20, 40))
    (failed,) = [one for one in summary["extra_arms"][0]["checks"] if one["ok"] is False]
    assert (failed["name"], failed["detail"]) == (
        "possible",
        "at 1: speedup at least 2.00, acceptance length 1.80",
    )


def with_quantised(document: dict[str, Any], plain: float, draft: float) -> dict[str, Any]:
    """The document with both arms on a quantised verifier, at these speeds in every round."""
    for one in list(document["samples"]):
        speed = plain if one["arm"] == "plain" else draft
        requests = [{**row, "text_sha256": f"quantised {row['text_sha256']}"} for row in one["requests"]]
        twin = {"arm": f"quantised-{one['arm']}", "output_tokens_per_second": speed, "requests": requests}
        document["samples"].append({**one, **twin})
    return document


def test_a_draft_on_a_quantised_verifier_is_compared_with_that_ones_own_plain_arm(
    benchmark_document: Make,
) -> None:
    alone = summarise(benchmark_document([(10, 12), (10, 12)]))
    summary = summarise(with_quantised(benchmark_document([(10, 12), (10, 12)]), 20, 22))
    one = summary["quantised"]
    assert one["overall_speedup"]["mean"] == pytest.approx(1.1)
    assert one["quantising"]["mean"] == pytest.approx(2.0)
    assert one["both"]["mean"] == pytest.approx(2.2)
    assert one["exact_match"] == alone["exact_match"]["draft_against_plain"]
    assert one["acceptance"] == alone["acceptance"]["served"]
    assert [check["ok"] for check in one["checks"]] == [True] * 3
    # the verifier's own comparison does not hear of it
    assert {**summary, "quantised": None, "checks": None} == {**alone, "checks": None}
    assert alone["quantised"] is None
    assert "On the quantised verifier it gives 1.10 times" in verdict(summary)
    assert "together are 2.20 times" in verdict(summary)


def test_a_broken_comparison_on_the_quantised_verifier_costs_the_other_nothing(
    benchmark_document: Make,
) -> None:
    document = with_quantised(benchmark_document([(10, 12), (10, 12)]), 20, 22)
    document["samples"][-1]["output_tokens"] = 1
    summary = summarise(document)
    assert broken(summary["checks"]) == []
    assert "Nothing can be said of it on the quantised verifier (same-work)" in verdict(summary)


def test_an_extra_arm_that_is_not_comparable_costs_the_draft_nothing(benchmark_document: Make) -> None:
    document = with_ngram(benchmark_document([(10, 12), (20, 24)]), 15, 30)
    document["samples"][-1]["output_tokens"] = 1
    summary = summarise(document)
    assert broken(summary["checks"]) == []
    assert "Nothing can be said of ngram (same-work: " in verdict(summary)


def test_steps_of_more_proposed_tokens_have_to_fit_the_captured_graphs_as_well(
    benchmark_document: Make,
) -> None:
    document = with_ngram(benchmark_document([(10, 12), (20, 24)]), 15, 30)
    document["engine_args"] = {"cudagraph_capture_sizes": [1, 4]}
    document["samples"] += [{**one, "arm": "draft-7"} for one in document["samples"] if one["arm"] == "draft"]
    summary = summarise(document)
    fits = {
        one["arm"]: [check["ok"] for check in one["checks"] if check["name"] == "capture-sizes"]
        for one in (*summary["extra_arms"], *summary["depths"])
    }
    assert fits == {"ngram": [True], "draft-7": [False]}
    assert broken(summary["checks"]) == []
