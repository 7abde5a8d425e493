"""What a draft was taught: masks that cover nothing, answers without an end, unasked thinking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speculators.documents import write_json, write_jsonl
from speculators.inspection.masks import mask_checks, taught


def row(text: str = "an answer", outputs: int = 8, finish: str = "stop") -> dict[str, Any]:
    return {
        "prompt_token_ids": [1] * 8,
        "output_token_ids": [2] * outputs,
        "text": text,
        "finish_reason": finish,
    }


def failed(rows: list[dict[str, Any]], thinking: str = "off") -> dict[str, str]:
    return {check.name: check.severity for check in mask_checks(rows, thinking) if not check.ok}


def test_good_answers_are_not_spoken_of() -> None:
    assert not failed([row()] * 10 + [row(finish="length")] * 3)
    assert not failed([row("<think>\n\n</think>\n\nan answer")] * 10)
    assert not failed([row("<think>why</think>an answer"), row()], "both")
    assert not failed([row("why</think>an answer")], "on")  # the template opened the block in the prompt


@pytest.mark.parametrize(
    ("rows", "thinking", "expected"),
    [
        ([row(outputs=0)] * 4, "off", {"every answer teaches": "error", "enough is taught": "error"}),
        ([row(outputs=0), *[row()] * 9], "off", {"every answer teaches": "warning"}),
        ([row(finish="length")] * 6 + [row()] * 4, "off", {"answers end": "warning"}),
        ([row("<think>why</think>an answer")] * 4, "off", {"thinking as asked": "error"}),
        ([row("<think>why, and why, and")] * 4, "off", {"thinking as asked": "error"}),
        ([row()] * 4, "on", {"thinking as asked": "error"}),
    ],
)
def test_what_is_wrong_is_named(rows: list[dict[str, Any]], thinking: str, expected: dict[str, str]) -> None:
    assert failed(rows, thinking) == expected


def test_a_runs_answers_are_found_where_its_capture_read_them(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "store" / "responses"
    assert taught(run) == []  # it brought its draft
    write_json(run / "stages" / "responses" / "input.json", {"values": {"verifier": {"thinking": "on"}}})
    write_json(run / "stages" / "hidden_states" / "input.json", {"inputs": {"responses": str(kept)}})
    assert taught(run) == []  # the store was emptied
    write_jsonl(kept / "shard-00000.jsonl", [row(), row()])
    (found,) = taught(run)
    assert (found.trap, found.sure) == ("D10", "likely")
    assert "none of 2 answers thinks" in found.what
