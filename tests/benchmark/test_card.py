"""The card of a machine whose step times are known, from documents as a benchmark leaves them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from speculators.benchmark.card import card, schedule_checked, sweeping
from speculators.benchmark.cells import cells
from speculators.benchmark.cost_model import Cell, acceptance, length
from speculators.benchmark.setting import SCHEDULE
from speculators.checkpoint.setting import write_setting
from speculators.documents import file_digest, read_json, write_json
from speculators.errors import RecipeError
from speculators.report.card import html, text
from tests.benchmark.conftest import request, sample, spec
from tests.benchmark.test_cost_model import GPU, RATES

ARMS = {"plain": 0, "draft-1": 1, "draft-3": 3, "draft": 5}
TOKENS = 400
#: Two spans of lengths; those in one span are not equally long.
PROMPTS = {"short": 100, "shortish": 150, "long": 3000, "longish": 3100}


def swept(*concurrencies: int) -> dict[str, Any]:
    """Every arm at every load: prompts of two lengths, answers of 400 tokens, steps as of ``GPU``."""
    samples = []
    for arm, depth in ARMS.items():
        for requests in concurrencies:
            rows = []
            for name, prompt in PROMPTS.items():
                context = prompt + TOKENS / 2 if requests == 1 else fmean(PROMPTS.values()) + TOKENS / 2
                # No prompt is accepted like another, so each K has a mean over other shares of the prompts.
                steps = round((TOKENS - 1) / length(RATES, depth)) + (depth * len(name) % 3 if depth else 0)
                wait = 1000 * steps * GPU.seconds(Cell(depth, requests, context))
                accepted = [round(steps * rate) for rate in RATES[:depth]]
                counts = spec(steps, *accepted) if depth else None
                times = {"ttft_ms": 50.0, "latency_ms": 50.0 + wait, "prompt_tokens": prompt}
                rows.append(request(name, tokens=TOKENS, spec=counts, **times))
            samples.append(sample(1, arm, requests, 100.0, rows))
    return {
        "samples": samples,
        "rounds": [],
        "speculation": {"algorithm": "eagle3", "tokens": 5},
        "benchmark": {"requests": len(PROMPTS)},
    }


def test_a_cell_is_the_mean_step_of_its_requests() -> None:
    found = {one.cell: one.seconds for one in cells(swept(1, 16))}
    assert len(found) == 4 * (2 + 1)  # alone, lengths are told apart
    for cell, seconds in found.items():
        assert seconds == pytest.approx(GPU.seconds(cell), rel=0.01)


def test_all_settings_of_a_load_are_at_the_same_context_and_held_against_each_other() -> None:
    document = swept(1, 4, 16)
    contexts = {one.cell.context for one in cells(document) if one.cell.requests == 1}
    assert sorted(contexts) == [pytest.approx(325), pytest.approx(3250)]
    regrets = card(document)["regrets"]
    assert [(one["requests"], round(one["context"])) for one in regrets] == [
        (1, 325),
        (1, 1788),  # all lengths together, as the setting is for
        (1, 3250),
        (4, 1788),
        (16, 1788),
    ]


def test_the_speed_of_a_cell_is_measured_and_not_the_models() -> None:
    document = swept(1, 4)
    for one in document["samples"]:
        if one["arm"] == "draft-3" and one["concurrency"] == 4:
            for row in one["requests"]:
                row["latency_ms"] += 1000.0
    plain, three = (
        next(one for one in card(document)["cells"] if (one["tokens"], one["requests"]) == (tokens, 4))
        for tokens in (0, 3)
    )
    seconds = fmean(
        row["latency_ms"] - row["ttft_ms"]
        for one in document["samples"]
        if (one["arm"], one["concurrency"]) == ("draft-3", 4)
        for row in one["requests"]
    )
    assert three["tokens_per_second"] == pytest.approx(4 * (TOKENS - 1) / (seconds / 1000))
    assert three["speedup"] == pytest.approx(three["tokens_per_second"] / plain["tokens_per_second"])
    assert three["predicted_speedup"] > three["speedup"]
    assert three["held_out_error"] > 0.1


def test_what_was_not_measured_is_predicted() -> None:
    found = card(swept(1, 4))["predicted"]
    assert [(one["tokens"], one["requests"]) for one in found] == [
        (2, 1),
        (4, 1),
        (2, 1),
        (4, 1),
        *((tokens, 4) for tokens in range(1, 6)),  # short prompts alone, in a batch
        (2, 4),
        (4, 4),
        *((tokens, 4) for tokens in range(1, 6)),  # long ones
    ]
    assert all(one["speedup"] > 1 for one in found)


def test_the_deepest_arm_says_how_much_is_accepted() -> None:
    assert acceptance(cells(swept(1))).pooled == pytest.approx(RATES, abs=0.01)


def test_lengths_of_context_have_rates_and_settings_of_their_own() -> None:
    """Long prompts accept next to nothing, so speculation is off for them and for no other."""
    document = swept(1, 4)
    for one in document["samples"]:
        for row in one["requests"]:
            if (depth := ARMS[one["arm"]]) and "long" in row["id"]:
                requests, alone = one["concurrency"], one["concurrency"] == 1
                prompt = row["prompt_tokens"] if alone else fmean(PROMPTS.values())
                step = GPU.seconds(Cell(depth, requests, prompt + TOKENS / 2))
                row["spec"] = spec(TOKENS - 1, *[0] * depth)
                row["latency_ms"] = row["ttft_ms"] + 1000 * (TOKENS - 1) * step
    found = card(document)
    short, long = found["by_context"]
    assert (round(short["context"]), round(long["context"])) == (325, 3250)
    assert long["schedule"] == [[1, 4, 0]]
    assert long["speculative_config"] == {}
    assert short["schedule"][0][2] > 0
    of = {(one["requests"], round(one["context"])): one["rates"] for one in found["rates_by_load"]}
    assert of[1, 3250] == [0, 0, 0, 0, 0]
    assert of[1, 325] == pytest.approx(RATES, abs=0.02)
    assert "at 3250 tokens of context alone: 1 to 4 requests at a time: speculation off" in text(found)


def test_a_few_prompts_are_no_length_of_context() -> None:
    document = swept(1, 4)
    for one in document["samples"]:
        one["requests"] = [row for row in one["requests"] if row["id"] != "longish"]
        one |= {"completed": 3, "output_tokens": 3 * TOKENS}
        for row in one["requests"]:
            if row["id"] == "long" and row["spec"]:
                row["spec"] = spec(99, *[99] * ARMS[one["arm"]])
    document["benchmark"]["requests"] = 3
    found = card(document)
    assert found["by_context"] == []
    assert "all prompts were in one span of context" in text(found)


def test_the_card_predicts_what_was_held_out_and_recommends_the_best() -> None:
    found = card(swept(1, 4, 16, 64))
    assert found["held_out"]["median"] < 0.05
    known = [one["loss"] for one in found["regrets"] if one["loss"] is not None]
    assert known
    assert max(known) < 0.03
    assert found["schedule"][0][0] == 1
    assert found["schedule"][-1][1] == 64
    assert found["speculative_config"]["num_speculative_tokens"] == max(one[2] for one in found["schedule"])
    assert all(
        one["loss"] is not None for one in found["model_regrets"] if one["recommended"] in (0, 1, 3, 5)
    )
    json.dumps(found, allow_nan=False)


def of_two_rounds(*concurrencies: int, lucky: str = "", at: int = 0) -> dict[str, Any]:
    """The same round twice; in the first the arm ``lucky`` took a tenth of its time at the load ``at``."""
    document = swept(*concurrencies)
    again = deepcopy(document["samples"])
    for one in again:
        one["round"] = 2
    for one in document["samples"]:
        if (one["arm"], one["concurrency"]) == (lucky, at):
            for row in one["requests"]:
                row["latency_ms"] = row["ttft_ms"] + (row["latency_ms"] - row["ttft_ms"]) / 10
    document["samples"] += again
    return document


def test_rounds_that_agree_confirm_the_choice() -> None:
    found = card(of_two_rounds(1, 4, 16, 64))
    assert [one["requests"] for one in found["judged"]] == [1, 4, 16, 64]
    assert all(abs(one["loss"]) < 0.03 for one in found["judged"])
    assert [one["share"] for one in found["repeated"]] == [pytest.approx(1)] * 4
    assert "as far as rounds repeat them: 100% at 1, 100% at 4, 100% at 16, 100% at 64" in text(found)


def test_what_one_round_alone_calls_fast_is_not_chosen() -> None:
    found = card(of_two_rounds(1, 4, 16, 64, lucky="draft-1", at=4))
    (share,) = (one["share"] for one in found["repeated"] if one["requests"] == 4)
    (chosen,) = (one for one in found["regrets"] if one["requests"] == 4)
    assert share < 0.1
    assert chosen["best"] == 1
    assert chosen["recommended"] != 1
    (judged,) = (one for one in found["judged"] if one["requests"] == 4)
    assert judged["loss"] > 0.05  # the lucky round is among the judges
    assert "at 4 requests at a time in the round left out, in the mean" in text(found)


def test_one_round_chooses_by_the_model_and_judges_nothing() -> None:
    found = card(swept(1, 4, 16, 64))
    assert found["judged"] == []
    assert "no other round judges that choice" in text(found)
    assert "of one round's noise nothing is known, so the model chose" in text(found)


def test_too_few_settings_make_no_card() -> None:
    document = swept(4)
    document["samples"] = document["samples"][:2]
    with pytest.raises(RecipeError, match="2 settings were measured") as caught:
        card(document)
    assert sweeping(5) in (caught.value.hint or "")
    assert "benchmark.depths=[1,2,3,4]" in sweeping(5)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"output_tokens": 900}, "draft-3: output tokens of the arms differ by at most 43.75%"),
        ({"errored": 1}, "requests: round 1 draft-3 at 16: 4 of 4 completed"),
    ],
)
def test_settings_that_did_other_work_make_no_card(damage: dict[str, int], reason: str) -> None:
    document = swept(1, 4, 16)
    places = [(one["arm"], one["concurrency"]) for one in document["samples"]]
    document["samples"][places.index(("draft-3", 16))].update(damage)
    with pytest.raises(RecipeError, match=f"cannot be compared: {reason}"):
        card(document)


def test_what_proposes_only_at_times_has_no_card() -> None:
    document = swept(1, 4, 16, 64)
    document["speculation"]["algorithm"] = "ngram"
    with pytest.raises(RecipeError, match="'ngram' has no draft"):
        card(document)


def test_the_card_is_read_in_a_terminal_and_as_a_page() -> None:
    found = card(swept(1, 4, 16, 64))
    assert "requests at a time: propose" in text(found)
    assert "warning: rounds: 1; with fewer than 5" in text(found)
    page = html(found, "a <draft>")
    assert "a &lt;draft&gt;" in page
    assert "<script" not in page
    acceptance_rows = 2 + len(found["rates_by_load"])
    assert page.count("<tr>") == acceptance_rows + 1 + len(found["cells"]) + 1 + len(found["predicted"])
    assert "at most" in text(found)
    assert "is not known" in text({**found, "regrets": []})
    own = text({**found, "schedule": [[1, 1, 2], [2, 2, 1], [3, 6, 0]]})
    assert own.startswith(
        "one request at a time: propose 2 tokens\n"
        "2 requests at a time: propose 1 token\n"
        "3 to 6 requests at a time: speculation off\n"
    )


def test_a_recommendation_that_was_only_reckoned_is_said_to_be() -> None:
    measured = {"requests": 1, "context": 97.0, "recommended": 3, "best": 0, "loss": 0.021}
    reckoned = {"requests": 4, "context": 97.0, "recommended": 2, "best": 0, "loss": None}
    found = card(swept(1, 4, 16, 64))
    shown = text({**found, "regrets": [measured, measured, reckoned]})
    assert "at 1 loads the recommended setting loses at most 2.1% against the best measured one" in shown
    only_reckoned = "recommended as reckoned, and not measured (benchmark.depths): "
    assert f"{only_reckoned}2 tokens at 4 requests at a time" in shown
    assert "whether it is best is not known" in text({**found, "regrets": [reckoned]})
    assert "not measured (" not in text({**found, "regrets": [measured]})


def test_what_a_schedule_costs_and_is_worth_is_said_where_there_is_one() -> None:
    found = card(swept(1, 4, 16, 64))
    alone = {"tokens": 3, "loss": 0.013}
    config = {"num_speculative_tokens": 3}
    one_for_all = {**found, "alone": alone, "speculative_config": config}
    assert "a number that varies with the load would gain at most 1.3%" in text(one_for_all)
    assert "piecewise" not in text(one_for_all)
    varying = {**one_for_all, "speculative_config": {**config, SCHEDULE: [[1, 8, 3], [9, 64, 0]]}}
    assert "num_speculative_tokens 3 alone would lose at most 1.3% against the schedule" in text(varying)
    assert "piecewise CUDA graphs" in text(varying)
    assert "there is no vLLM here" in text({**varying, "checked_by_vllm": None})
    assert "takes the schedule" in text({**varying, "checked_by_vllm": True})
    assert schedule_checked(one_for_all) is None


def test_the_setting_is_written_into_a_checkpoint(tmp_path: Path) -> None:
    methods = {"proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}]}
    verifier = {"verifier": {"name_or_path": "owner/verifier"}}
    write_json(tmp_path / "config.json", {"speculators_config": {**methods, **verifier}})
    (tmp_path / "published.safetensors").write_bytes(b"weights")
    weights = file_digest(tmp_path / "published.safetensors")
    setting = {
        "num_speculative_tokens": 3,
        "num_speculative_tokens_per_batch_size": [[1, 8, 3], [9, 64, 0]],
    }
    write_setting(tmp_path, setting, weights)
    config = read_json(tmp_path / "config.json")
    assert config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 3
    assert read_json(tmp_path / "speculative-config.json") == setting
    with pytest.raises(RecipeError, match="no setting to write"):
        write_setting(tmp_path, {}, weights)
    (tmp_path / "published.safetensors").write_bytes(b"others")
    with pytest.raises(RecipeError, match="another draft than the one that was measured"):
        write_setting(tmp_path, setting, weights)
    write_json(tmp_path / "config.json", {"speculators_config": {}})
    with pytest.raises(RecipeError, match="speculators_config lacks 'proposal_methods'"):
        write_setting(tmp_path, setting, weights)
