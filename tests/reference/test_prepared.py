"""A dataset that the reference system prepared is read here as its own trainer reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speculators.datagen.prepared_rows import read_rows
from speculators.datagen.shards import read_documents
from speculators.documents import write_json, write_jsonl
from speculators.recipe.view import PREPARED
from speculators.stages.__main__ import main
from speculators.stages.documents import StageInput
from tests.datagen.prepared_world import rows, save_states, stage_inputs, values
from tests.reference.environment import Side

pytestmark = pytest.mark.integration


def test_rows_masks_and_states_are_those_that_the_reference_trains_on(
    reference: Side, tmp_path: Path
) -> None:
    inputs, data = stage_inputs(tmp_path / "inputs"), tmp_path / "data"
    model = inputs["verifier"] / "model"
    write_jsonl(tmp_path / "rows.jsonl", rows(model))
    answer = reference.ask("prepared", model=str(model), rows=str(tmp_path / "rows.jsonl"), out=str(data))
    assert "state.json" in answer["files"]
    # What a server would write for each row; the reference's command shuffled them.
    save_states(data, model, {row.number: row.token_ids.tolist() for row in read_rows(data)})
    assert reference.ask("loaded", folder=str(data), out=str(tmp_path / "its.safetensors")) == {"rows": 4}
    its = load_file(tmp_path / "its.safetensors")

    step = StageInput("hidden_states", values(), inputs, {PREPARED: [data]}, tmp_path / "out")
    write_json(tmp_path / "input.json", step.document())
    assert main(str(tmp_path / "input.json")) == 0
    ours = list(read_documents(tmp_path / "out"))
    assert [one.id for one in ours] == [f"row-{number}" for number in range(4)]
    for number, one in enumerate(ours):
        states = one.hidden_states
        assert torch.equal(one.token_ids, its[f"{number}.input_ids"])
        assert torch.equal(states[:, :-1].flatten(1), its[f"{number}.hidden_states"])
        assert torch.equal(states[:, -1], its[f"{number}.verifier_last_hidden_states"])
        learnt = torch.arange(len(one.token_ids)) >= one.prompt_tokens
        assert torch.equal(learnt.long(), its[f"{number}.loss_mask"])
    shuffled = [one.token_ids.tolist() for one in ours]
    assert shuffled != [row["input_ids"] for row in map(json.loads, (tmp_path / "rows.jsonl").open())]
