from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speculators.convert.account import account, flattened
from speculators.convert.kinds import KINDS
from speculators.convert.plan import Options, Plan
from speculators.convert.source import open_source
from tests.convert import sources

ORIGINAL = "original_max_position_embeddings"
LAYOUTS = {
    "eagle3": sources.safeailab, "specforge": sources.specforge, "nvidia": sources.nvidia,
    "nemo": sources.nemo, "eagle": sources.eagle1, "dflash": sources.dflash,
}  # fmt: skip


def planned(kind: str, folder: Path, **changes: object) -> tuple[dict, Plan]:
    source = LAYOUTS[kind](folder)
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (source / "config.json").write_text(json.dumps(config))
    verifier = {"num_hidden_layers": sources.DEPTH, "vocab_size": sources.VOCAB, "hidden_size": 16}
    return config, KINDS[kind].plan(open_source(str(source)), Options("verifier", verifier))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_an_account_says_nothing_that_the_two_documents_do_not(kind: str, tmp_path: Path) -> None:
    config, plan = planned(kind, tmp_path / "source")
    before, after = flattened(config), flattened(plan.document)
    for fate in plan.fields:
        value = before.get(fate.name, config.get(fate.name))
        if fate.fate in ("kept", "renamed"):
            assert all(after[place] == value for place in (fate.target or fate.name).split(", ")), fate
        elif fate.fate == "dropped":
            assert not any(path.endswith(f".{fate.name}") or path == fate.name for path in after), fate
        else:
            shown = [f"{path} = {now}" for path, now in after.items()] + [str(after.get(fate.name))]
            assert fate.target in shown, fate
        assert fate.why or fate.fate in ("kept", "renamed"), fate


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_value_of_both_documents_is_accounted_for(kind: str, tmp_path: Path) -> None:
    config, plan = planned(kind, tmp_path / "source")
    said = {fate.name for fate in plan.fields}
    unsaid = [path for path in flattened(config) if path not in said and path.partition(".")[0] not in said]
    assert unsaid == []
    targets = " ".join(f"{fate.name} {fate.target}" for fate in plan.fields)
    assert [path for path in flattened(plan.document) if path.rpartition(".")[2] not in targets] == []


def test_what_stands_in_a_block_has_a_fate_of_its_own(tmp_path: Path) -> None:
    block = {"eagle_aux_hidden_state_layer_ids": [1, 5, 8], "use_last_layernorm": True, "norm_output": False}
    _, plan = planned("nvidia", tmp_path / "source", eagle_config=block, rope_scaling=None)
    fates = {fate.name: fate for fate in plan.fields}
    assert fates["eagle_config.use_last_layernorm"].fate == "dropped"
    assert fates["eagle_config.norm_output"][1:3] == ("kept", "norm_output")
    ids = fates["eagle_config.eagle_aux_hidden_state_layer_ids"]
    assert (ids.fate, ids.target) == ("derived", "eagle_aux_hidden_state_layer_ids = [2, 6, 9]")
    assert "one was added" in ids.why
    assert fates["rope_scaling"][1:] == ("dropped", "", "null says nothing")
    assert fates["torch_dtype"].fate == "dropped"
    assert "written as" not in fates["torch_dtype"].why


def test_scaling_that_moves_is_renamed_key_by_key(tmp_path: Path) -> None:
    scaling = {"type": "linear", "factor": 4.0}
    _, plan = planned("eagle3", tmp_path / "source", rope_scaling=scaling)
    rope = "transformer_layer_config.rope_parameters"
    assert ("rope_scaling.type", "renamed", f"{rope}.rope_type", "") in plan.fields
    assert ("rope_scaling.factor", "kept", f"{rope}.factor", "") in plan.fields


def test_a_length_beside_its_block_is_kept_and_the_one_inside_is_said_to_give_way(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, ORIGINAL: 16}
    _, plan = planned("eagle3", tmp_path / "source", rope_scaling=scaling, **{ORIGINAL: 32})
    target = f"transformer_layer_config.rope_parameters.{ORIGINAL}"
    assert (ORIGINAL, "kept", target, "") in plan.fields
    (inside,) = (fate for fate in plan.fields if fate.name == f"rope_scaling.{ORIGINAL}")
    assert inside[1:3] == ("derived", f"{target} = 32")
    assert "as vLLM takes it" in inside.why


VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from(["a", "b"]), st.just([1]))
NAMES = st.sampled_from(["hidden_size", "eagle_config", "rope_scaling", "rope_theta", "type", "x"])
DOCUMENTS = st.dictionaries(
    NAMES, st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner), max_leaves=3), max_size=4
)


@settings(max_examples=60)
@given(DOCUMENTS, DOCUMENTS)
def test_nothing_is_called_kept_that_changed_and_nothing_is_left_out(source: dict, layer: dict) -> None:
    target = {"transformer_layer_config": layer} if layer else {}
    fates = {fate.name: fate for fate in account(source, target)}
    after = flattened(target)
    for path, value in flattened(source).items():
        fate = fates.get(path) or fates[path.partition(".")[0]]
        if fate.fate in ("kept", "renamed"):
            assert all(
                (after[one], type(after[one])) == (value, type(value)) for one in fate.target.split(", ")
            )
    told = " ".join(f"{fate.name} {fate.target}" for fate in fates.values()).replace(",", "").split()
    assert set(after) <= set(told)
