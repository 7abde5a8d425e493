"""Verifier facts: where they are found without loading a model, and when they are not trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.recipe.facts import facts_from_config, find_facts
from speculators.recipe.hub_cache import cache_folder

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "vocab_size": 100,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 5000.0,
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, commit: str, config: dict[str, Any]) -> Path:
    model = cache / "models--org--name"
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").write_text(json.dumps(config))
    return model


def test_a_local_folder_speaks_for_itself(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    facts = find_facts({"path": "model"}, tmp_path, {})
    assert facts is not None
    assert (facts.num_hidden_layers, facts.head_dim, facts.num_key_value_heads) == (6, 16, 4)
    assert facts.rope_parameters == {"rope_theta": 5000.0, "rope_type": "default"}
    assert facts.source == "model/config.json"


def test_the_hub_cache_is_read_by_commit_and_by_branch(tmp_path: Path) -> None:
    model = cached(tmp_path, COMMIT, CONFIG)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    for revision in ({"revision": COMMIT}, {"revision": "main"}, {}):
        facts = find_facts({"repository": "org/name", **revision}, tmp_path, environ)
        assert facts is not None
        assert facts.source == f"config.json of org/name@{COMMIT[:7]} in the local Hugging Face cache"


def test_another_commit_in_the_cache_does_not_count(tmp_path: Path) -> None:
    cached(tmp_path, "f" * 40, CONFIG)
    verifier = {"repository": "org/name", "revision": COMMIT}
    assert find_facts(verifier, tmp_path, {"HF_HUB_CACHE": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/huggingface/hub"),
        ({"HOME": "/d"}, "/d/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hub_library_puts_it(environ: dict[str, str], folder: str) -> None:
    assert cache_folder(environ) == Path(folder)


def test_committed_facts_hold_for_exactly_their_revision(tmp_path: Path) -> None:
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    revision = "b968826d9c46dd6066d109eabc6255188de91218"
    facts = find_facts({"repository": "Qwen/Qwen3-8B", "revision": revision}, tmp_path, environ)
    assert facts is not None
    assert (facts.num_hidden_layers, facts.vocab_size) == (36, 151936)
    assert find_facts({"repository": "Qwen/Qwen3-8B", "revision": "main"}, tmp_path, environ) is None


@pytest.mark.parametrize(
    "change",
    [{"num_hidden_layers": "6"}, {"vocab_size": None}, {"num_attention_heads": 0}, {"text_config": "x"}],
)
def test_a_config_that_makes_no_sense_gives_no_facts(change: dict[str, Any]) -> None:
    assert facts_from_config({**CONFIG, **change}, "test") is None


def test_a_multimodal_config_is_read_through_its_text_part() -> None:
    facts = facts_from_config({"architectures": ["X"], "text_config": CONFIG}, "test")
    assert facts is not None
    assert (facts.architecture, facts.hidden_size) == ("X", 64)


def test_a_damaged_config_is_no_facts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": ')
    assert find_facts({"path": "."}, tmp_path, {}) is None
