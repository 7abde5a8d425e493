"""The whole benchmark with a real vLLM server and a real GuideLLM, on a tiny random verifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark.checks import broken
from speculators.benchmark.guidellm import progress
from speculators.benchmark.run import run_benchmark
from speculators.benchmark.summary import summarise
from speculators.documents import read_json, read_jsonl, write_json, write_jsonl
from speculators.executors.base import Step
from speculators.executors.local import LocalExecutor
from speculators.serving.environment import engine_environment
from speculators.stages.documents import StageInput, write_output
from tests.models.words import ALGORITHM, ENGINE_ARGS, ENGINE_ENV, WORDS, write_words_model
from tests.needs import needing

pytestmark = [
    pytest.mark.integration,
    needing("vllm", "guidellm"),
]

ENGINE = {"args": ENGINE_ARGS, "env": ENGINE_ENV, "startup_timeout": 500, "stall_timeout": 200}


def make_verifier(stage: Path) -> None:
    """A random Llama of four layers whose words are its tokens."""
    write_words_model(stage / "model")
    from speculators.datagen.verifier import facts

    known = facts(stage / "model", trust_remote_code=False)
    write_output(StageInput("verifier", {}, {}, {}, stage), {"facts": known, "trust_remote_code": False}, 0.0)


def make_draft(stage: Path, verifier: Path) -> None:
    """An untrained draft for it, as a packaged checkpoint."""
    import torch

    from speculators.checkpoint.config import VerifierName, localised, to_document
    from speculators.checkpoint.eagle3 import FORMAT, Eagle3Config
    from speculators.checkpoint.package import assemble, write_checkpoint
    from speculators.checkpoint.verifier_weights import load_verifier_weights
    from speculators.models.eagle3 import Eagle3Draft

    config = Eagle3Config.for_verifier(read_json(verifier / "output.json")["result"]["facts"], ALGORITHM)
    weights = load_verifier_weights(verifier / "model")
    torch.manual_seed(1)
    tensors = assemble(Eagle3Draft(config).state_dict(), torch.arange(4, 36), weights, FORMAT.copies)
    name = VerifierName("local:tiny", "0" * 64, "LlamaForCausalLM")
    document = localised(to_document(config, ALGORITHM["speculative_tokens"], name), verifier / "model")
    write_checkpoint(stage / "model", document, tensors)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stages")
    found = {name: root / name for name in ("verifier", "prompts", "package")}
    for path in found.values():
        path.mkdir()
    make_verifier(found["verifier"])
    make_draft(found["package"], found["verifier"])
    rows = [
        {"id": f"p{number}", "messages": [{"role": "user", "content": " ".join(WORDS[number : number + 5])}]}
        for number in range(6)
    ]
    write_jsonl(found["prompts"] / "benchmark.jsonl", rows)
    return found


def test_both_arms_are_served_measured_and_predicted(inputs: dict[str, Path], tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "benchmark": {
            "requests": 6,
            "max_tokens": 12,
            "concurrency": [1, 3],
            "rounds": 1,
            "warmup_requests": 1,
            "side_by_side": True,  # rounds one server at a time are measured by tests of whole runs
        },
        "engine": ENGINE,
        "verifier": {"thinking": "off", "chat_template_kwargs": {}, "trust_remote_code": False},
        "speculative_tokens": 2,
    }
    folder = tmp_path / "bench"
    executor = LocalExecutor()
    heard: list[str] = []
    document = run_benchmark(values, inputs, folder, executor, print, heard.append)
    write_json(folder / "output.json", {"result": document})

    summary = summarise(document)
    assert broken(summary["checks"]) == []
    assert next(check for check in summary["checks"] if check["name"] == "counters")["ok"] is True
    for one in document["samples"]:  # every answer is of the arm whose turn it was
        assert {row["spec"] is not None for row in one["requests"]} == {one["arm"] == "draft"}
    alone = {one["arm"]: one for one in document["samples"] if one["concurrency"] == 1}
    assert len(read_json(folder / "round-01/together/client/guidellm-c1.json")["benchmarks"]) == 1
    for one in alone.values():
        assert one["wall_seconds"] == pytest.approx(sum(row["seconds"] for row in one["requests"]))
    assert summary["exact_match"]["draft_against_plain"]["rate"] == 1.0
    tokens = list(read_jsonl(folder / "round-01/plain/client/tokens.jsonl"))
    assert [row["id"] for row in tokens] == [f"p{number}" for number in range(6)]
    assert all(row["prompt_token_ids"] and row["output_token_ids"] for row in tokens)
    assert any(progress(line).startswith("concurrent@3: 6 requests done") for line in heard)

    step = StageInput("replay", {"engine": ENGINE}, {**inputs, "benchmark": folder}, {}, tmp_path / "replay")
    write_json(tmp_path / "input.json", step.document())
    argv = [sys.executable, "-m", "speculators.stages", str(tmp_path / "input.json")]
    replayed = executor.run(Step("replay", argv, engine_environment(ENGINE["env"]), tmp_path / "replay.log"))  # type: ignore[arg-type]
    assert replayed.exit_code == 0, (tmp_path / "replay.log").read_text()
    predicted = summarise(document, read_json(tmp_path / "replay" / "replay.json"))["acceptance"]
    assert predicted["predicted"]["drafts"] > 0
    assert abs(predicted["difference"]) < 0.05
