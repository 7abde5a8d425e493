"""A prepared dataset becomes training shards: what is taken over, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from speculators.datagen.shards import check_shards, read_documents, read_index
from speculators.documents import read_json, write_json
from speculators.recipe.view import PREPARED
from speculators.stages import prepared_states
from speculators.stages.__main__ import main
from speculators.stages.documents import ERROR_NAME, StageInput, read_output
from tests.datagen.prepared_world import (
    ASKED,
    AUX,
    DEPTH,
    WIDTH,
    rows,
    save_prepared,
    save_rows,
    save_states,
    stage_inputs,
    values,
)
from tests.needs import needed

needed("pyarrow")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return stage_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "data"
    save_prepared(folder, inputs["verifier"] / "model")
    return folder


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def run(inputs: dict[str, Path], data: Path, output: Path, **datagen: Any) -> int:
    step = StageInput("hidden_states", values(**datagen), inputs, {PREPARED: [data]}, output)
    write_json(output.with_suffix(".input.json"), step.document())
    return main(str(output.with_suffix(".input.json")))


def test_rows_and_states_are_taken_over(inputs: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    assert run(inputs, whole, tmp_path / "out") == 0
    found, asked = list(read_documents(tmp_path / "out")), rows(inputs["verifier"] / "model")
    check_shards(tmp_path / "out", 4)
    index = read_index(tmp_path / "out")
    assert (index["layers"], index["hidden_size"]) == ([*AUX, DEPTH], WIDTH)
    assert [one.id for one in found] == ["row-0", "row-1", "row-2", "row-3"]
    for number, (one, row) in enumerate(zip(found, asked)):
        states = load_file(whole / "hidden_states" / f"hs_{number}.safetensors")["hidden_states"]
        assert one.token_ids.tolist() == row["input_ids"]
        assert one.prompt_tokens == row["loss_mask"].index(1)
        assert torch.equal(one.hidden_states, states)
    result = read_output(tmp_path / "out")["result"]
    assert result["prepared"] == {
        "rows": 4,
        "tokens": result["prepared"]["tokens"],
        "looping": 0,
        "dropped": {},
    }
    assert result["prepared"]["tokens"] == sum(sum(row["loss_mask"]) for row in asked)
    assert result["probe"]["prompts"] == 4


def test_turns_of_one_conversation_stay_on_one_side_of_the_split(
    inputs: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    assert run(inputs, whole, tmp_path / "out") == 0
    found = list(read_documents(tmp_path / "out"))
    assert [one.group for one in found] == ["row-0", "row-0", "row-2", "row-3"]
    assert found[0].split == found[1].split
    assert {one.split for one in found} == {"train", "validation"}


def test_a_row_of_several_answers_is_a_document_for_each(inputs: dict[str, Path], tmp_path: Path) -> None:
    model, data = inputs["verifier"] / "model", tmp_path / "data"
    first, second = rows(model)[:2]
    both = {**second, "loss_mask": first["loss_mask"] + second["loss_mask"][len(first["loss_mask"]) :]}
    save_rows(data, [both])
    save_states(data, model, {0: both["input_ids"]})
    assert run(inputs, data, tmp_path / "out") == 0
    found = list(read_documents(tmp_path / "out"))
    assert [(one.id, one.group, one.prompt_tokens, len(one.token_ids)) for one in found] == [
        ("row-0-0", "row-0-0", first["loss_mask"].index(1), len(first["input_ids"])),
        ("row-0-1", "row-0-0", second["loss_mask"].index(1), len(second["input_ids"])),
    ]


def test_a_row_that_is_learnt_from_its_first_token_has_that_for_a_prompt(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """No state comes before it to guess it from."""
    model, data = inputs["verifier"] / "model", tmp_path / "data"
    row = rows(model)[0]
    save_rows(data, [{**row, "loss_mask": [1] * len(row["input_ids"])}])
    save_states(data, model, {0: row["input_ids"]})
    assert run(inputs, data, tmp_path / "out") == 0
    (found,) = read_documents(tmp_path / "out")
    assert found.prompt_tokens == 1


def test_rows_without_states_or_of_the_benchmark_are_left_out_and_counted(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    model, data = inputs["verifier"] / "model", tmp_path / "data"
    found = rows(model)
    ids = AutoTokenizer.from_pretrained(model)(f"<s>user:{ASKED.upper()}</s><s>assistant:It ebbs.</s>")[
        "input_ids"
    ]
    found.append({"input_ids": ids, "loss_mask": [0] * (len(ids) - 4) + [1] * 4})
    found.append({"input_ids": [0, 1], "loss_mask": [0, 0]})
    save_rows(data, found)
    save_states(data, model, {number: found[number]["input_ids"] for number in (0, 2, 4, 5)})
    assert run(inputs, data, tmp_path / "out") == 0
    assert [one.id for one in read_documents(tmp_path / "out")] == ["row-0", "row-2"]
    assert read_json(tmp_path / "out" / "ledger.json")["dropped"] == {
        "asks_benchmark": 1,
        "no_states": 2,
        "nothing_to_learn": 1,
    }


def test_a_continued_attempt_leaves_the_same_files(
    inputs: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs, whole, tmp_path / "undisturbed") == 0

    class Killed(BaseException):
        pass

    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prepared_states, "write_json", dying)
        with pytest.raises(Killed):
            run(inputs, whole, tmp_path / "out")
    read = prepared_states.row_states
    monkeypatch.setattr(prepared_states, "row_states", dying)  # every shard is there already
    assert run(inputs, whole, tmp_path / "out") == 0
    monkeypatch.setattr(prepared_states, "row_states", read)
    for path in (tmp_path / "undisturbed").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def _file(data: Path, number: int = 0) -> Path:
    return data / "hidden_states" / f"hs_{number}.safetensors"


def _changed(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> Callable[[Path], object]:
    return lambda data: save_file(
        {name: tensor.contiguous() for name, tensor in change(load_file(_file(data))).items()}, _file(data)
    )


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda data: _file(data).write_bytes(_file(data).read_bytes()[:-9]), "cannot be read"),
    "of another row": (lambda data: shutil.copy(_file(data, 2), _file(data)), "holds states of other tokens"),
    "of more rows": (lambda data: shutil.copy(_file(data), _file(data, 9)), "the dataset has 4 rows"),
    "of fewer layers": (
        _changed(lambda one: {**one, "hidden_states": one["hidden_states"][:, 1:]}),
        "holds 2 layers, this draft reads 3, the last one included",
    ),
    "of a wider verifier": (
        _changed(lambda one: {**one, "hidden_states": one["hidden_states"].repeat(1, 1, 2)}),
        "states are 32 wide, the verifier's are 16",
    ),
    "zero": (
        _changed(lambda one: one | {"hidden_states": one["hidden_states"].index_fill(0, torch.tensor(1), 0)}),
        "a token's state is zero",
    ),
    "not finite": (
        _changed(lambda one: {**one, "hidden_states": one["hidden_states"] / 0}),
        "a state is not finite",
    ),
    "without ids": (
        _changed(lambda one: {"hidden_states": one["hidden_states"]}),
        "has no tensor token_ids",
    ),
    "of no rows": (lambda data: (data / "state.json").unlink(), "has no state.json that names Arrow files"),
    "without states": (lambda data: shutil.rmtree(data / "hidden_states"), "has no hidden_states/hs_"),
    "of damaged rows": (
        lambda data: next(data.glob("*.arrow")).write_bytes(b"no arrows"),
        "cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_prepared_dataset_is_refused(
    fault: str, inputs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    damage, message = FAULTS[fault]
    damage(data)
    assert run(inputs, data, tmp_path / "out") == 3
    error = read_json(tmp_path / "out" / ERROR_NAME)
    assert message in error["message"]
    assert str(data) in error["message"] or error["rule"] == "probe"
    assert error["hint"]


def test_states_of_other_layers_are_named_by_the_probe(inputs: dict[str, Path], tmp_path: Path) -> None:
    save_prepared(tmp_path / "data", inputs["verifier"] / "model", layers=(1, 3, DEPTH))
    assert run(inputs, tmp_path / "data", tmp_path / "out") == 3
    error = read_json(tmp_path / "out" / ERROR_NAME)
    assert "the states called layer 2 differ from it by" in error["message"]
    assert "it equals layer 3" in error["message"]
    assert "set algorithm.aux_layers" in error["hint"]


def test_a_last_layer_after_the_norm_is_found_out(
    inputs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    for path in (data / "hidden_states").iterdir():
        tensors = load_file(path)
        last = tensors["hidden_states"][:, -1].float()
        tensors["hidden_states"][:, -1] = (last / last.square().mean(-1, keepdim=True).sqrt()).bfloat16()
        save_file(tensors, path)
    assert run(inputs, data, tmp_path / "out") == 3
    assert "the states called layer 4 differ from it" in read_json(tmp_path / "out" / ERROR_NAME)["message"]
