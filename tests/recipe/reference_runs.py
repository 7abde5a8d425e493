"""Trainings of the reference system as its users start them, and the files that a recipe of one names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from speculators.documents import write_json

#: What has to be given of each kind's draft.
DRAFTS: dict[str, dict[str, Any]] = {
    "eagle3": {"draft_vocab_size": 32000},
    "peagle": {"draft_vocab_size": 32000, "mask_token_id": 151669},
    "dflash": {"mask_token_id": 151669},
}


def named(kind: str) -> dict[str, Any]:
    """The ``train`` block of a small run."""
    verifier = {"verifier_name_or_path": "Qwen/Qwen3-8B"}
    return copy.deepcopy({"speculator_type": kind, "verifier": verifier, "draft": DRAFTS[kind]})


def beside(folder: Path) -> Path:
    """What the recipe of such a run names, in ``folder``; returns the recipe's place."""
    write_json(folder / "output" / "state.json", {"_data_files": [{"filename": "data.arrow"}]})
    (folder / "output" / "data.arrow").touch()
    (folder / "output" / "hidden_states").mkdir()
    (folder / "output" / "hidden_states" / "hs_0.safetensors").touch()
    (folder / "prompts").mkdir()
    rows = (f'{{"prompt": "Question {number}?"}}\n' for number in range(64))
    (folder / "prompts" / "benchmark.jsonl").write_text("".join(rows))
    return folder / "mine.yaml"
