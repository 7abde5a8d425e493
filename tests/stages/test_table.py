"""Stages get what they declare and nothing else."""

from __future__ import annotations

from speculators.stages.table import (
    BUILD_STAGES,
    HIDDEN_STATES,
    PACKAGE,
    PROMPTS,
    QUANTISED,
    TRAINING,
    VERIFIER,
    build_stages,
    keyed,
    select,
)

DATA = {
    "name": "x",
    "verifier": {"path": "./model", "thinking": "off"},
    "algorithm": {"kind": "eagle3", "aux_layers": [2, 3, 4]},
    "datagen": {"prompts": {"files": ["a.jsonl"], "seed": 1}, "max_tokens": 8},
    "training": {"epochs": 2},
    "benchmark": {"prompts": "b.jsonl", "requests": 4},
    "engine": {"args": {}, "env": {}},
}


def test_a_stage_sees_only_the_values_it_reads():
    assert select(DATA, TRAINING) == {"algorithm": DATA["algorithm"], "training": {"epochs": 2}}


def test_nested_values_keep_their_place():
    chosen = select(DATA, PROMPTS)
    assert chosen["benchmark"] == {"requests": 4}
    assert chosen["datagen"] == {"prompts": {"seed": 1}}


def test_how_the_work_is_done_reaches_the_stage_but_not_its_key():
    data = {**DATA, "training": {"epochs": 2, "devices": 8, "trackers": ["tensorboard"]}}
    assert select(data, TRAINING)["training"] == data["training"]
    assert keyed(data, TRAINING)["training"] == {"epochs": 2}
    assert data["training"]["devices"] == 8


def test_more_requests_of_the_load_ask_for_no_new_data():
    more = {**DATA, "benchmark": {**DATA["benchmark"], "requests": 96}}
    assert select(more, PROMPTS)["benchmark"] == {"requests": 96}
    assert keyed(more, PROMPTS) == keyed(DATA, PROMPTS)


def test_of_random_text_there_are_as_many_prompts_as_are_asked():
    text = "kind=synthetic_text,prompt_tokens=32"
    few, many = ({**DATA, "benchmark": {"prompts": text, "requests": number}} for number in (4, 96))
    assert keyed(few, PROMPTS)["benchmark"] == {
        "read_as": [{"kind": "synthetic_text", "prompt_tokens": "32", "requests": 4}]
    }
    assert keyed(few, PROMPTS) != keyed(many, PROMPTS)


def test_a_draft_of_the_last_layer_only_asks_capture_for_no_other():
    assert select({**DATA, "algorithm": {"kind": "eagle", "layers": 1}}, HIDDEN_STATES).keys() == {"engine"}


def test_file_names_are_not_values():
    assert select(DATA, VERIFIER) == {"verifier": {"thinking": "off"}}


def test_a_draft_that_the_recipe_brings_needs_no_training():
    data = {key: value for key, value in DATA.items() if key not in ("algorithm", "datagen", "training")}
    data["draft"] = "./draft"
    assert [stage.name for stage in build_stages(data)] == ["verifier", "prompts", "package"]
    assert select(data, PACKAGE) == {"name": "x"}


def test_a_quantised_verifier_is_prepared_after_the_draft_that_must_fit_it():
    data = {**DATA, "benchmark": {**DATA["benchmark"], "quantised": "./fp8"}}
    assert [stage.name for stage in build_stages(data)][-2:] == ["package", "quantised"]
    assert select(data, QUANTISED) == {}
    trusting = {**data, "verifier": {**DATA["verifier"], "trust_remote_code": True}}
    assert select(trusting, QUANTISED) == {"verifier": {"trust_remote_code": True}}


def test_inputs_are_made_before_they_are_needed():
    made: set[str] = set()
    for stage in (*BUILD_STAGES, QUANTISED):
        assert set(stage.inputs) <= made, stage.name
        made.add(stage.name)
