"""The quality comparison: subsets of equal data in both systems' formats, and the paired difference."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks.quality_data import Prepared, draft_ids, for_reference, nested, subset
from benchmarks.quality_options import SYSTEMS, arguments, data_recipe, expected
from benchmarks.quality_table import Counts, Served, change, changes, summed, table
from speculators.datagen.shards import Document, read_documents, write_index, write_shard
from speculators.errors import RecipeError, StageError

VOCABULARY, WIDTH, LAYERS = 50, 4, (1, 2, 3)


def documents(count: int = 30, held_out_every: int = 5) -> list[Document]:
    """Documents of mixed lengths, the validation ones strewn among them."""
    draw = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        prompt, length = draw.randint(2, 6), draw.randint(8, 20)
        made.append(
            Document(
                id=f"row-{number}",
                group=f"topic-{number % held_out_every}",
                split="validation" if number % held_out_every == 0 else "train",
                looping=False,
                prompt_tokens=prompt,
                token_ids=torch.randint(VOCABULARY, (length,), generator=generator),
                hidden_states=torch.randn(length, len(LAYERS), WIDTH, generator=generator).bfloat16(),
            )
        )
    return made


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """A capture of two shards."""
    folder, made = tmp_path / "states", documents()
    folder.mkdir()
    shards = [
        write_shard(folder, 0, made[:17], torch.bfloat16),
        write_shard(folder, 1, made[17:], torch.bfloat16),
    ]
    write_index(folder, LAYERS, WIDTH, "bfloat16", shards)
    return folder


def ids(folder: Path, split: str) -> list[str]:
    return [document.id for document in read_documents(folder, split)]


def supervised(folder: Path) -> int:
    return sum(
        len(document.token_ids) - document.prompt_tokens for document in read_documents(folder, "train")
    )


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.data(), st.integers(0, 9))
def test_a_smaller_size_is_part_of_a_larger_one_and_no_document_is_to_spare(tokens, data, seed) -> None:
    large = data.draw(st.integers(1, sum(tokens)))
    small = data.draw(st.integers(1, large))
    few, many = nested(tokens, small, seed), nested(tokens, large, seed)
    assert set(few) <= set(many)
    held = sum(tokens[place] for place in many)
    assert large <= held < large + max(tokens[place] for place in many)


def test_too_little_data_is_said_with_its_way_out(states: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"hold \d+ supervised tokens, 100000 are wanted") as error:
        subset(states, tmp_path / "cut", 100_000, seed=0)
    assert "magpie" in error.value.hint
    assert not (tmp_path / "cut").exists()


def test_subsets_differ_in_training_documents_alone(states: Path, tmp_path: Path) -> None:
    small, large = (subset(states, tmp_path / str(size), size, seed=0) for size in (60, 150))
    assert set(ids(small, "train")) < set(ids(large, "train"))
    assert ids(small, "validation") == ids(large, "validation") == ids(states, "validation")
    assert supervised(small) >= 60
    assert supervised(large) >= 150
    whole = {document.id: document for document in read_documents(states)}
    for document in read_documents(large):
        assert document.hidden_states.equal(whole[document.id].hidden_states)
        assert document._replace(hidden_states=None, token_ids=None) == whole[document.id]._replace(
            hidden_states=None, token_ids=None
        )


def test_a_finished_subset_is_kept_and_an_interrupted_one_made_again(states: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    subset(states, cut, 60, seed=0)
    before = {path.name: path.stat().st_mtime_ns for path in cut.iterdir()}
    subset(states, cut, 60, seed=0)
    assert before == {path.name: path.stat().st_mtime_ns for path in cut.iterdir()}
    (cut / "subset.json").unlink()  # what is written last
    (cut / "shard-00007.safetensors").write_bytes(b"half")
    subset(states, cut, 60, seed=0)
    assert {path.name for path in cut.iterdir()} == before.keys()


def test_a_subset_of_other_settings_is_refused(states: Path, tmp_path: Path) -> None:
    subset(states, tmp_path / "cut", 60, seed=0)
    with pytest.raises(StageError, match="seed 0, now 1"):
        subset(states, tmp_path / "cut", 60, seed=1)


def test_the_reference_is_given_the_same_rows_mask_states_and_vocabulary(
    states: Path, tmp_path: Path
) -> None:
    from datasets import load_from_disk

    cut = subset(states, tmp_path / "cut", 100, seed=0)
    prepared = for_reference(cut, tmp_path / "theirs", VOCABULARY, size=20)
    rows = load_from_disk(str(prepared.folder))
    expected_rows = [*read_documents(cut, "train"), *read_documents(cut, "validation")]
    assert len(rows) == prepared.rows == len(expected_rows)
    assert prepared.train == len(ids(cut, "train"))
    for number, (row, document) in enumerate(zip(rows, expected_rows)):
        assert row["input_ids"].equal(document.token_ids)
        assert row["seq_len"] == len(document.token_ids)
        assert row["loss_mask"].nonzero()[0] == document.prompt_tokens
        assert row["loss_mask"].sum() == len(document.token_ids) - document.prompt_tokens
        captured = load_file(prepared.folder / "hidden_states" / f"hs_{number}.safetensors")
        assert captured["hidden_states"].equal(document.hidden_states)
        assert captured["token_ids"].equal(document.token_ids)
    spoken = np.load(prepared.folder / "t2d-20.npy").nonzero()[0]
    assert spoken.tolist() == draft_ids(cut, VOCABULARY, 20).tolist()
    assert (np.load(prepared.folder / "d2t-20.npy") + np.arange(20)).tolist() == spoken.tolist()
    assert for_reference(cut, tmp_path / "theirs", VOCABULARY, size=20) == prepared


@given(st.integers(1, 100_000), st.integers(1, 10_000))
def test_the_reference_splits_where_it_is_told(train: int, held_out: int) -> None:
    prepared = Prepared(Path(), train, train + held_out)
    assert int(prepared.rows * prepared.train_ratio) == train  # as its ArrowDataset does
    assert 0 < prepared.train_ratio < 1


def served(arm: str, size: int | None, *counts: tuple[int, int]) -> Served:
    """(drafts, accepted) of each prompt, every step a draft."""
    prompts = {
        f"prompt-{number}": Counts(drafts, accepted, 1 + drafts + accepted)
        for number, (drafts, accepted) in enumerate(counts)
    }
    return Served(arm, size, prompts)


COUNTS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 120)), min_size=2, max_size=40)


@given(COUNTS, COUNTS)
def test_a_change_holds_its_ratio_and_turns_round(one, other) -> None:
    count = min(len(one), len(other))
    new, old = served("new", 1, *one[:count]), served("old", 1, *other[:count])
    there, back = change(new, old, 1), change(old, new, 1)
    assert there.ratio == pytest.approx(new.acceptance_length / old.acceptance_length)
    assert there.low <= there.ratio * (1 + 1e-12)
    assert there.ratio <= there.high * (1 + 1e-12)
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_what_prompts_differ_by_themselves_is_not_in_the_interval() -> None:
    easy_and_hard = [(10, 30), (40, 4), (20, 20), (38, 6)] * 6
    old = served("old", 1, *easy_and_hard)
    # Every prompt loses a tenth of its drafts to more accepted tokens.
    new = served("new", 1, *((round(0.9 * d), a + d - round(0.9 * d)) for d, a in easy_and_hard))
    found = change(new, old, 1)
    assert found.ratio == pytest.approx(1 / 0.9, rel=0.01)
    assert found.high / found.low < 1.02
    assert max(a / d for d, a in easy_and_hard) > 10 * min(a / d for d, a in easy_and_hard)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(400):
        # Each prompt is as hard as it is; both arms accept at the same rate, so the true ratio is 1.
        rates = draw.uniform(0.1, 2.0, size=40)
        arms = [
            served(arm, 1, *zip(draw.integers(15, 40, size=40).tolist(), draw.poisson(25 * rates).tolist()))
            for arm in ("new", "old")
        ]
        found = change(*arms, 1)
        covered += found.low <= 1 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_a_free_arm_is_counted_over_its_steps_without_a_draft_too() -> None:
    arm = Served("ngram", None, {"a": Counts(drafts=2, accepted=6, tokens=64)})
    assert arm.acceptance_length == 4.0
    assert arm.tokens_per_step == pytest.approx(1 + 6 / 57)


def test_answers_with_several_seeds_are_one_prompt() -> None:
    one = summed([served("eagle3", 1, (10, 5), (20, 1)), served("eagle3", 1, (12, 3), (18, 3))])
    assert one.prompts["prompt-0"] == Counts(22, 8, 32, answers=2)
    assert one.prompts["prompt-0"].steps == 22


def test_free_arms_stand_beside_every_size() -> None:
    arms = [
        served("ngram", None, (20, 2), (30, 4)),
        *(served(name, size, (20, 9), (30, 8)) for size in (1, 2) for name in ("eagle3", "reference")),
    ]
    found = changes(arms, [("eagle3", "reference"), ("eagle3", "ngram")])
    assert [(one.new, one.old, one.size) for one in found] == [
        ("eagle3", "ngram", 1),
        ("eagle3", "reference", 1),
        ("eagle3", "ngram", 2),
        ("eagle3", "reference", 2),
    ]
    assert "+0.0 % (+0.0 to +0.0)" in table(arms, found)


def test_the_plan_counts_a_searched_size_once() -> None:
    options = arguments(None, ["nowhere"])
    words = [one.what for one in expected(options, data_recipe(options))]
    assert [name for name in SYSTEMS if any(word.startswith(f"{name}: 5 trainings") for word in words)] == [
        "eagle3",
        "reference",
    ]
    options = arguments(None, ["nowhere", "--search", "each", "--seeds", "0", "1", "--systems", "eagle3"])
    words = [one.what for one in expected(options, data_recipe(options))]
    assert any(word.startswith("eagle3: 12 trainings") for word in words)  # 3 sizes x (3 rates + 1 seed)
