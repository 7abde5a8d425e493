from __future__ import annotations

from typing import Any

from speculators.report.ledger import sentences

PROBE = {
    "prompts": 8,
    "largest_error": 2.197e-06,
    "tolerance": 0.001,
    "greedy_share": 1.0,
    "greedy_positions": 128,
    "ties": 3,
    "tie_margin": 0.02,
}


def document(data: dict[str, Any], **parts: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"summary": {"requests": 16, "outputs": None}, "probe": None, "stages": []}
    return empty | {"data": data} | parts


def test_the_books_of_a_training_are_sentences() -> None:
    data = {
        "prompts": {
            "benchmark": 96,
            "train": 1459,
            "validation": 41,
            "sources": {
                "file": {"kept": 1400, "dropped": {}},
                "magpie": {"kept": 100, "dropped": {"not_ascii": 4, "unfinished": 22}},
            },
            "magpie_wanted": 100,
        },
        "responses": {
            "rows": 1500,
            "tokens": 43458,
            "looping": 150,
            "length_limited": 389,
            "dropped": {"empty": 2},
            "tokens_per_second": 171.4,
        },
    }
    outputs = {"rows": 16, "output_tokens": 855, "looping": 1, "length_limited": 10}
    found = document(data, summary={"requests": 16, "outputs": outputs}, probe=PROBE)
    assert sentences(found) == [
        "Prompts: 1,459 to train on, 41 to validate on: 1,400 from files, 100 written by the verifier "
        "itself.",
        "Of those written by the verifier itself were left out: not ascii 4, unfinished 22.",
        "The benchmark has 96 prompts; every arm was asked the first 16.",
        "Answers to train and validate on: 1,500 with 43,458 tokens in all, at 171 tokens/s; 389 were cut "
        "at the longest length, 150 (10.0%) repeat themselves.",
        "Answers left out: empty 2.",
        "Plain answers to the benchmark's prompts: 16 with 855 tokens in all; 10 were cut at the longest "
        "length, 1 repeat themselves.",
        "Captured states of 8 prompts were computed once more by transformers: largest error 2.2e-06 "
        "(allowed 0.001), the same greedy token at 100.0% of 125 positions.",
    ]


def test_a_run_without_training_has_only_prompts_to_tell_of() -> None:
    found = document({"prompts": {"benchmark": 96}, "responses": None})
    assert sentences(found) == ["The benchmark has 96 prompts; every arm was asked the first 16."]


def test_states_that_nobody_probed_are_said_to_be_so() -> None:
    found = document({"responses": {"rows": 0}}, stages=[{"name": "hidden_states"}])
    assert sentences(found) == [
        "Answers to train and validate on: 0.",
        "The captured states were not probed in this run.",
    ]


def test_a_dataset_that_was_taken_over_is_counted() -> None:
    found = document({"prepared": {"rows": 3, "left_out": {"without states": 1}}})
    assert sentences(found)[0] == ("Taken over from a prepared dataset: rows 3, left out (without states 1).")
