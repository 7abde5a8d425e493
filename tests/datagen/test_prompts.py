from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.datagen.prompts import read_prompts
from speculators.errors import RecipeError

GOOD = '{"id": "tides-1", "topic": "tides", "prompt": "Why are there two tides a day?"}'


def write(tmp_path: Path, *lines: str, name: str = "prompts.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_prompt_is_a_conversation_of_one_message(tmp_path: Path) -> None:
    (prompt,) = read_prompts([write(tmp_path, GOOD, "")])
    assert prompt.group == "tides"
    assert prompt.messages == [{"role": "user", "content": "Why are there two tides a day?"}]


def test_only_the_users_words_are_compared(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    row = {"id": "a", "topic": "t", "messages": messages}
    (prompt,) = read_prompts([write(tmp_path, json.dumps(row))])
    assert prompt.text == "Hi"


def test_a_row_without_id_or_topic_is_called_after_its_line_and_stands_alone(tmp_path: Path) -> None:
    first, second = read_prompts([write(tmp_path, '{"prompt": "a"}', "", '{"prompt": "b"}')])
    assert (first.id, first.group) == ("prompts-1", "prompts-1")
    assert (second.id, second.group) == ("prompts-3", "prompts-3")


def test_tools_go_with_the_row(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    (prompt,) = read_prompts([write(tmp_path, json.dumps({"prompt": "What time is it?", "tools": tools}))])
    assert prompt.row("train")["tools"] == tools
    (bare,) = read_prompts([write(tmp_path, GOOD)])
    assert "tools" not in bare.row("train")


def test_unicode_line_separators_do_not_end_a_row(tmp_path: Path) -> None:
    assert len(read_prompts([write(tmp_path, GOOD.replace("two", "two\u2028"))])) == 1


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"id": "a", "topic": "t", "prompt": "x"', ":2:40: not JSON"),
        ("[]", ":2: a row must be a JSON object"),
        ('{"id": 7, "topic": "t", "prompt": "x"}', ":2: 'id' must be a non-empty string"),
        ('{"id": "a", "topic": "", "prompt": "x"}', ":2: 'topic' must be"),
        (
            '{"id": "a", "topic": "t"}',
            ":2: a row has one of 'prompt', 'messages', 'conversations', this one has none",
        ),
        ('{"id": "a", "topic": "t", "messages": []}', ":2: 'messages' must be a non-empty list"),
        ('{"id": "a", "topic": "t", "messages": [{"role": "bot", "content": "x"}]}', ":2: role 'bot'"),
        (
            '{"id": "a", "topic": "t", "messages": [{"role": "system", "content": "x"}]}',
            "needs a user message",
        ),
        ('{"id": "a", "topic": "t", "prompt": " "}', ":2: 'prompt' must be a non-empty string"),
        (GOOD, "id 'tides-1' was used before, at"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, cause: str) -> None:
    path = write(tmp_path, GOOD, line)
    with pytest.raises(RecipeError) as caught:
        read_prompts([path])
    assert caught.value.message.startswith(f"{path}:2")
    assert cause in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.jsonl: cannot be read"):
        read_prompts([tmp_path / "none.jsonl"])
