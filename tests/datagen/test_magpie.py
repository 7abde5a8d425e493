from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from speculators.datagen.magpie import (
    DRAWS_PER_PROMPT,
    Opening,
    Sample,
    batch_size,
    collect,
    opening,
    rejection,
    remembered,
)
from speculators.datagen.prompts import Prompt
from speculators.datagen.selection import Selection
from speculators.errors import StageError

# The template of SmolLM2-135M-Instruct, as its GGUF file carries it.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")


def render_with(template: str):  # type: ignore[no-untyped-def]
    return lambda messages: jinja2.Template(template).render(messages=messages)


def sample(text: str, *, finished: bool = True, token_ids: tuple[int, ...] = (1, 2, 3)) -> Sample:
    return Sample(text, token_ids, finished)


def test_the_opening_ends_with_the_user_tag_and_the_turn_ends_with_its_token() -> None:
    assert opening(render_with(SMOLLM2)) == Opening(
        before="<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\n",
        after="<|im_end|>\n",
    )


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content }}", "no user text", "<u>{{ messages[0].content|upper }}</u>"]
)
def test_a_template_without_tags_around_the_message_is_refused(template: str) -> None:
    with pytest.raises(StageError, match="between two tags"):
        opening(render_with(template))


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (sample("Why are there two tides a day?"), None),
        (sample("Why are there two", finished=False), "unfinished"),
        (sample("Why tides?"), "too_short"),
        (sample("word " * 81 + "."), "too_long"),
        (sample("Why are there <|im_start|> two tides?"), "special_token"),
        (sample("Wie spät ist es in Köln?"), "not_ascii"),
        (sample("1 2 3 4 5 6 7 8 9 + - * / = ?"), "few_letters"),
        (sample("Say that again and again.", token_ids=(4, 5, 6, 7) * 20), "looping"),
        (sample("Why are there two tides a"), "cut_off"),
    ],
)
def test_a_drawn_message_is_rejected_for_a_stated_reason(drawn: Sample, reason: str | None) -> None:
    assert rejection(drawn, SPECIAL) == reason


def test_collecting_stops_at_the_wanted_count_and_books_what_it_dropped() -> None:
    selection = Selection(
        [Prompt("b1", "file", "tides", [{"role": "user", "content": "How tall is question 3?"}])]
    )
    draws: list[int] = []

    def draw(batch: int) -> list[Sample]:
        draws.append(batch)
        return [sample(f"How tall is question {number // 2}?") for number in range(12)]

    assert collect(draw, 4, selection, SPECIAL) == 4
    assert draws == [0]
    assert [prompt.id for prompt in selection.kept] == [f"magpie-00000{n}" for n in (0, 2, 4, 8)]
    assert selection.ledger()["sources"]["magpie"] == {
        "kept": 4,
        "dropped": {"duplicate": 3, "near_benchmark": 2},
    }


def test_a_count_reached_with_the_last_sample_costs_no_further_batch() -> None:
    draws: list[int] = []

    def draw(batch: int) -> list[Sample]:
        draws.append(batch)
        return [sample(f"How tall is building {batch}-{number}?") for number in range(3)]

    assert collect(draw, 6, Selection([]), SPECIAL) == 6
    assert draws == [0, 1]


def test_collecting_gives_up_after_the_stated_number_of_draws() -> None:
    selection = Selection([])
    batches: list[int] = []

    def draw(batch: int) -> list[Sample]:
        batches.append(batch)
        return [sample("no")] * 60

    assert collect(draw, 20, selection, SPECIAL) == 0
    assert DRAWS_PER_PROMPT * 20 == 160
    assert batches == [0, 1, 2]
    assert selection.ledger()["sources"]["magpie"]["dropped"] == {"too_short": 180}


def test_a_small_wish_draws_a_small_batch() -> None:
    assert batch_size(8) == 16
    assert batch_size(1000) == 64


def test_recorded_batches_are_not_drawn_again_and_select_the_same(tmp_path: Path) -> None:
    draws: list[int] = []

    def draw(batch: int) -> list[Sample]:
        draws.append(batch)
        if batch == 2 and draws.count(2) == 1:
            raise KeyboardInterrupt
        return [sample(f"How tall is building {batch}-{number // 2}?") for number in range(4)]

    with pytest.raises(KeyboardInterrupt):
        collect(remembered(draw, tmp_path), 6, Selection([]), SPECIAL)
    continued, undisturbed = Selection([]), Selection([])
    assert collect(remembered(draw, tmp_path), 6, continued, SPECIAL) == 6
    assert draws == [0, 1, 2, 2]
    collect(draw, 6, undisturbed, SPECIAL)
    assert continued.kept == undisturbed.kept
    assert continued.ledger() == undisturbed.ledger()


def test_a_damaged_batch_is_drawn_again(tmp_path: Path) -> None:
    draw = remembered(lambda _: [sample("How tall is the tide here?")], tmp_path)
    drawn = draw(0)
    (record,) = tmp_path.iterdir()
    record.write_text(record.read_text().replace("tall", "wide"))
    assert draw(0) == drawn
