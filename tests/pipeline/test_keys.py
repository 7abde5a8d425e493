"""Keys: what may change an output changes the key, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from speculators.documents import tree_digest
from speculators.pipeline import keys
from speculators.stages.table import BUILD_STAGES, QUANTISED, REPLAY, TRAINING


def parts(tmp_path: Path, **changes):
    file = tmp_path / "prompts.jsonl"
    if not file.exists():
        file.write_text("{}\n")
    base = {"values": {"epochs": 2}, "inputs": {"hidden_states": "aa"}, "files": {"x": [file]}, "sources": {}}
    base["environment"] = {"torch": "2"}
    return keys.key_parts(TRAINING, **(base | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"values": {"epochs": 3}},
        {"inputs": {"hidden_states": "bb"}},
        {"files": {}},
        {"sources": {"version": "2"}},
        {"environment": {"torch": "3"}},
    ],
    ids=["value", "input", "file", "source", "environment"],
)
def test_a_change_in_what_goes_in_changes_the_key(tmp_path: Path, change):
    assert keys.key_of(parts(tmp_path)) != keys.key_of(parts(tmp_path, **change))


def test_the_place_of_a_file_does_not_matter_but_its_content_does(tmp_path: Path):
    other = tmp_path / "elsewhere" / "renamed.jsonl"
    other.parent.mkdir()
    other.write_text("{}\n")
    here, there = parts(tmp_path), parts(tmp_path, files={"x": [other]})
    assert keys.key_of(here) == keys.key_of(there)
    other.write_text('{"a": 1}\n')
    assert keys.key_of(here) != keys.key_of(parts(tmp_path, files={"x": [other]}))


@pytest.mark.parametrize("stage", [*BUILD_STAGES, QUANTISED, REPLAY], ids=lambda stage: stage.name)
def test_every_stage_has_an_entry_whose_imports_can_be_followed(stage):
    modules = keys.imported_modules(stage.module)
    assert stage.module in modules
    assert "speculators.documents" in modules or "speculators.stages.documents" in modules


def test_following_imports_reaches_what_the_entry_does_not_name_itself():
    assert "speculators.training.losses" in keys.imported_modules("speculators.stages.training")


def test_packaging_does_not_depend_on_how_the_draft_was_trained():
    assert "speculators.training.loop" not in keys.imported_modules("speculators.stages.package")


def test_a_module_that_an_engine_loads_by_name_is_code_of_the_stage():
    assert "speculators.datagen.cpu_connector" in keys.imported_modules("speculators.stages.hidden_states")


def test_no_stage_depends_on_the_command_line_or_the_runner():
    for stage in (*BUILD_STAGES, QUANTISED, REPLAY):
        modules = keys.imported_modules(stage.module)
        outside = [name for name in modules if name.split(".")[1] in ("cli", "pipeline")]
        assert outside == [], stage.name


def test_comments_and_docstrings_are_not_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "room").mkdir()
    source = tmp_path / "room" / "thing.py"
    monkeypatch.setattr(keys, "PACKAGE_ROOT", tmp_path)

    def digest(text: str) -> str:
        source.write_text(text)
        keys._code.cache_clear()
        return keys.module_digest("speculators.room.thing")

    plain = digest("def f(x):\n    return x + 1\n")
    assert digest('"""Why."""\n\ndef f(x):\n    """What."""\n    # reason\n    return x + 1\n') == plain
    assert digest("def f(x):\n    return x + 2\n") != plain
    keys._code.cache_clear()


def test_the_instruction_sets_that_choose_kernels_belong_to_the_environment(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu sse4_2 avx2 amx_bf16\n")
    assert keys.instruction_sets(cpuinfo) == ("avx2", "amx_bf16")
    assert keys.instruction_sets(tmp_path / "absent") == ()
    assert "instructions" in keys.environment(())


def test_a_large_file_is_not_read_again_in_another_process_and_a_changed_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPECULATORS_HOME", str(tmp_path / "home"))
    model = tmp_path / "model"
    model.mkdir()
    weights = model / "weights.bin"
    weights.write_bytes(bytes(2 << 20))
    os.utime(weights, (1e9, 1e9))
    monkeypatch.setattr("speculators.pipeline.file_facts.SETTLED_SECONDS", -60)  # no waiting for the clock
    first = parts(tmp_path, files={"verifier.path": [model]})["files"]
    assert first["verifier.path"] == [tree_digest(model)]
    monkeypatch.setattr("speculators.pipeline.file_facts.file_digest", lambda path: "read again")
    assert parts(tmp_path, files={"verifier.path": [model]})["files"] == first
    weights.write_bytes(bytes(1 + (2 << 20)))
    assert parts(tmp_path, files={"verifier.path": [model]})["files"] != first
