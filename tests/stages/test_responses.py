"""The responses stage whole, where no engine is needed: ``datagen.responses: keep``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from speculators.datagen.ledger import check_responses
from speculators.documents import read_json, read_jsonl, write_json, write_jsonl
from speculators.errors import StageError
from speculators.stages import responses as stage
from speculators.stages.__main__ import main
from speculators.stages.documents import ERROR_NAME, OUTPUT_NAME, StageInput, write_output
from speculators.stages.table import RESPONSES
from tests.needs import needed

CHATML = (
    "{% for m in messages %}{{ '<s>' + m.role + ':' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)
END = 1
ROWS, SIZE = 7, 2
#: The verifier's own context: room for every row but the last, whose answer is the longest.
LONGEST = 60


class Killed(BaseException):
    """Like a kill: nothing in the product may catch it."""


def save_tokenizer(folder: Path) -> None:
    """A real tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    whole.chat_template = CHATML
    whole.save_pretrained(folder)


def row(number: int) -> dict[str, Any]:
    answer = "Because of the Moon." * (3 if number == ROWS - 1 else 1) if number != 2 else ""
    messages = [{"role": "user", "content": f"Why {number}?"}, {"role": "assistant", "content": answer}]
    return {"id": f"row-{number}", "source": "file", "group": "t", "split": "train", "messages": messages}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inputs")
    save_tokenizer(root / "verifier" / "model")
    known = {"facts": {"max_position_embeddings": LONGEST}, "eos_token_ids": [END]}
    write_output(StageInput("verifier", {}, {}, {}, root / "verifier"), known, 0.0)
    write_jsonl(root / "prompts" / "train.jsonl", [row(number) for number in range(ROWS)])
    return {"verifier": root / "verifier", "prompts": root / "prompts"}


@pytest.fixture(scope="module")
def undisturbed(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(inputs, output) == 0
    return output


def run(inputs: dict[str, Path], output: Path, **engine_args: Any) -> int:
    datagen = {
        "responses": "keep",
        "max_tokens": 24,
        "temperature": 0.0,
        "looping_rows": "keep",
        "rows_per_shard": SIZE,
        "prompts": {"seed": 0},
    }
    values = {
        "verifier": {"thinking": "off", "trust_remote_code": False},
        "datagen": datagen,
        "engine": {"args": engine_args, "env": {}},
    }
    document = output.with_suffix(".input.json")
    write_json(document, StageInput("responses", values, inputs, {}, output).document())
    return main(str(document))


def contents(output: Path) -> dict[str, bytes]:
    """All files below the output, but the one that times the attempt."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != OUTPUT_NAME
    }


def kept(output: Path) -> list[str]:
    index = read_json(output / "index.json")
    return [row["id"] for shard in index["shards"] for row in read_jsonl(output / shard["file"])]


def dropped(output: Path) -> dict[str, int]:
    reasons: dict[str, int] = read_json(output / "ledger.json")["dropped"]
    return reasons


def test_no_file_is_read_that_the_stage_s_key_leaves_out(inputs: dict[str, Path], undisturbed: Path) -> None:
    """``undisturbed`` was made with these files and no others."""
    assert tuple(path.name for path in inputs["prompts"].iterdir()) == RESPONSES.of_inputs["prompts"]
    assert kept(undisturbed)


def test_kept_answers_are_stored_in_shards_and_booked(undisturbed: Path) -> None:
    assert kept(undisturbed) == ["row-0", "row-1", "row-3", "row-4", "row-5"]
    assert dropped(undisturbed) == {"empty": 1, "too_long": 1}
    assert sorted(contents(undisturbed)) == [
        "index.json",
        "ledger.json",
        *(f"shard-0000{number}.jsonl" for number in range(4)),
    ]


@pytest.mark.parametrize("length", [None, 0, -1])
def test_a_context_left_to_the_engine_is_the_verifiers_own(
    length: int | None, inputs: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    assert run(inputs, tmp_path / "out", max_model_len=length) == 0
    assert contents(tmp_path / "out") == contents(undisturbed)


def test_a_longer_context_keeps_longer_rows(inputs: dict[str, Path], tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "out", max_model_len=8000) == 0
    assert kept(tmp_path / "out")[-1] == f"row-{ROWS - 1}"


@pytest.mark.integration
def test_a_context_may_be_written_as_a_size(inputs: dict[str, Path], tmp_path: Path) -> None:
    needed("vllm")
    for written, meant in (("8k", 8000), ("auto", LONGEST)):
        assert run(inputs, tmp_path / written, max_model_len=written) == 0
        assert run(inputs, tmp_path / str(meant), max_model_len=meant) == 0
        assert contents(tmp_path / written) == contents(tmp_path / str(meant))
    assert run(inputs, tmp_path / "out", max_model_len="plenty") == 2
    assert read_json(tmp_path / "out" / ERROR_NAME)["rule"] == "engine-args"


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Die at the given one of the moments before and after each time that a file gets its name."""
    replace, passed = os.replace, iter(range(1000))

    def dying(source: Any, target: Any) -> None:
        if next(passed) == moment:
            with open(source, "r+b") as file:
                file.truncate(3)
            raise Killed
        replace(source, target)
        if next(passed) == moment:
            raise Killed

    monkeypatch.setattr(os, "replace", dying)


# Before and after each of: input document, four shards with their records, index, ledger.
@pytest.mark.parametrize("moment", range(22))
def test_a_continued_attempt_leaves_what_an_undisturbed_one_leaves(
    moment: int,
    inputs: dict[str, Path],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            run(inputs, tmp_path / "out")
    assert run(inputs, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(undisturbed)
    results = [read_json(output / OUTPUT_NAME)["result"] for output in (tmp_path / "out", undisturbed)]
    assert all(result.pop("tokens_per_second") > 0 for result in results)
    assert results[0] == results[1]


@pytest.fixture
def interrupted(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of an attempt that died with all shards written and nothing closed."""
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_close", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(inputs, tmp_path / "out")
    return tmp_path / "out"


def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that are made from now on."""
    numbers: list[int] = []
    finish = stage._finish
    monkeypatch.setattr(
        stage, "_finish", lambda step, batch: numbers.append(batch.shard) or finish(step, batch)
    )
    return numbers


def test_only_the_missing_and_the_damaged_shards_are_made_again(
    interrupted: Path,
    inputs: dict[str, Path],
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shard = interrupted / "shard-00001.jsonl"
    shard.write_text(shard.read_text().replace("Moon", "Noon"))
    (interrupted / "shard-00003.jsonl").unlink()
    numbers = made(monkeypatch)
    assert run(inputs, interrupted) == 0
    assert numbers == [1, 3]
    out = capsys.readouterr().out
    assert f"{shard} differs from its recorded digest" in out
    assert "responses: 2 of 4 shards are there already; continuing" in out
    assert contents(interrupted) == contents(undisturbed)


def test_with_every_shard_there_the_answers_are_not_asked_for(
    interrupted: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_kept", lambda *_: pytest.fail("started"))
    assert run(inputs, interrupted) == 0


def test_responses_that_disagree_with_index_or_ledger_are_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run(inputs, output)
    check_responses(output)
    ledger = (output / "ledger.json").read_text()
    (output / "ledger.json").write_text(json.dumps({**json.loads(ledger), "rows": 6}))
    with pytest.raises(StageError, match=r"index\.json: 5 rows .* but ledger\.json says 6 rows"):
        check_responses(output)
    (output / "ledger.json").write_text(ledger)
    shard = output / "shard-00002.jsonl"
    shard.write_text("".join(shard.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(StageError, match=r"shard-00002\.jsonl: 1 rows .* but index\.json says 2 rows"):
        check_responses(output)
