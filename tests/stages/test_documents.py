"""A stage's two documents: they obey their schemas and survive a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from speculators.documents import read_json, write_json
from speculators.stages.documents import OUTPUT_NAME, StageInput, read_input, write_output

SCHEMAS = Path(__file__).parents[2] / "schemas"


def schema(name: str):
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


def example(tmp_path: Path) -> StageInput:
    output = tmp_path / "out"
    output.mkdir()
    return StageInput(
        "training",
        {"training": {"epochs": 1}},
        {"verifier": tmp_path / "verifier"},
        {"datagen.prompts.files": [tmp_path / "a.jsonl"]},
        output,
    )


def test_an_input_document_reads_back_as_the_same_input(tmp_path: Path):
    step = example(tmp_path)
    write_json(tmp_path / "input.json", step.document())
    assert read_input(tmp_path / "input.json") == step
    jsonschema.validate(step.document(), schema("stage-input.v1.json"))


def test_an_output_document_lists_every_file_with_its_digest(tmp_path: Path):
    step = example(tmp_path)
    (step.output / "model").mkdir()
    (step.output / "model" / "x.bin").write_bytes(b"abc")
    write_output(step, {"loss": 1.5}, seconds=2.0)
    document = read_json(step.output / OUTPUT_NAME)
    jsonschema.validate(document, schema("stage-output.v1.json"))
    assert document["files"] == {
        "model/x.bin": {
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "bytes": 3,
        }
    }


def test_a_later_stage_reads_an_earlier_result(tmp_path: Path):
    step = example(tmp_path)
    write_output(step, {"id": "x"}, seconds=0.1)
    later = step._replace(inputs={"training": step.output})
    assert later.result_of("training") == {"id": "x"}
