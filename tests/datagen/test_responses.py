from __future__ import annotations

from typing import Any

import jinja2
import pytest

from speculators.datagen.chat import as_served, template_arguments, thinking_modes
from speculators.datagen.ledger import Entry, summary
from speculators.datagen.responses import Answer, compare_rendering, drop_reason, kept_answer
from speculators.errors import RecipeError, StageError

CHATML = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '#\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
# Like templates of thinking models: what comes before the last user message is rendered differently.
FORGETFUL = "{{ messages|length }}{% for m in messages %}{{ m.content }}#{% endfor %}"
END = ord("#")
CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


class CharacterTokenizer:
    """A tokenizer whose tokens are characters: a real template, and ids that can be read."""

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        *,
        add_generation_prompt: bool,
        tokenize: bool,
        return_dict: bool,
        **more: Any,
    ) -> list[int]:
        text = jinja2.Template(self.chat_template, keep_trailing_newline=True).render(
            messages=messages, add_generation_prompt=add_generation_prompt, **more
        )
        return [ord(character) for character in text]


def kept(messages: list[dict[str, str]], template: str = CHATML, context: int = 100) -> Answer | str:
    return kept_answer(CharacterTokenizer(template), messages, {}, [END], context)


def test_a_kept_answer_ends_with_the_end_of_its_turn() -> None:
    answer = kept(CHAT)
    assert isinstance(answer, Answer)
    assert bytes(answer.prompt_token_ids).decode() == "<user>Why?#\n<assistant>"
    assert bytes(answer.output_token_ids).decode() == "Because.#"


def test_tools_reach_the_template_and_a_call_is_an_answer() -> None:
    template = "{% if tools %}[{{ tools[0].name }}]{% endif %}" + CHATML.replace(
        "m.content", "(m.content or m.tool_calls[0].function.name)"
    )
    chat = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "clock"}}]}]
    answer = kept_answer(CharacterTokenizer(template), chat, {}, [END], 100, tools=[{"name": "clock"}])
    assert isinstance(answer, Answer)
    assert bytes(answer.prompt_token_ids).decode() == "[clock]<user>Why?#\n<assistant>"
    assert bytes(answer.output_token_ids).decode() == "clock#"
    assert drop_reason(answer, drop_looping=True, stop=[END]) is None


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"b": 1, "a": [2]}', {"b": 1, "a": [2]}),
        ({"b": 1}, {"b": 1}),
        ("", {}),
        ("not JSON", {}),
        ("[1]", {}),
    ],
)
def test_a_template_gets_calls_as_the_chat_endpoint_gives_them(arguments: object, given: object) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}, "id": "1", "extra": 2}
    (found,) = as_served([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert found == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "function": {"arguments": given, "name": "f"}, "type": "function"}],
    }
    assert list(found["tool_calls"][0]) == [
        "id",
        "function",
        "type",
    ]  # a template that prints it shows this order
    assert as_served([found]) == [found]
    assert as_served([{**CHAT[1], "tool_calls": []}]) == [CHAT[1]]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_reach_the_template_under_both_names_and_of_answers_only(name: str) -> None:
    thoughts = {"reasoning": "Hm.", "reasoning_content": "Hm."}
    assert as_served([{**CHAT[1], name: "Hm."}]) == [CHAT[1] | thoughts]
    assert as_served([{**CHAT[0], name: "Hm.", "tool_calls": [], "tool_call_id": "1"}]) == [CHAT[0]]


def test_a_prompt_that_the_engine_renders_otherwise_is_an_error() -> None:
    answers = {3: Answer([1, 2, 3], [4], "x", "stop")}
    compare_rendering({3: [1, 2, 3], 9: [7]}, answers)  # 9 was too long to be asked
    with pytest.raises(StageError, match="unlike from position 1 on"):
        compare_rendering({3: [1, 9, 3]}, answers)
    with pytest.raises(StageError, match="unlike from position 2 on"):
        compare_rendering({3: [1, 2]}, answers)


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    assert kept(CHAT, FORGETFUL) == "unstable_template"


@pytest.mark.parametrize("messages", [CHAT[:1], CHAT[1:]])
def test_a_row_without_question_or_answer_cannot_be_kept(messages: list[dict[str, str]]) -> None:
    assert kept(messages) == "no_response"


def test_a_conversation_beyond_the_context_cannot_be_kept() -> None:
    assert kept(CHAT, context=20) == "too_long"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer([1], [5, END], "Because", "stop"), None),
        (Answer([1], [END], "", "stop"), "empty"),
        (Answer([1], [9, END], "\n", "stop"), "empty"),
        (Answer([1], [3, 4, 5] * 20, "so so so", "length"), "looping"),
    ],
)
def test_answers_are_dropped_for_a_stated_reason(answer: Answer, reason: str | None) -> None:
    assert drop_reason(answer, drop_looping=True, stop=[END]) == reason


def test_looping_answers_stay_where_the_recipe_keeps_them() -> None:
    answer = Answer([1], [3, 4, 5] * 20, "so so so", "length")
    assert drop_reason(answer, drop_looping=False, stop=[END]) is None


def test_the_ledger_counts_kept_rows_and_the_reasons_of_others() -> None:
    entries = [
        Entry(None, 100, False, "stop"),
        Entry(None, 50, True, "length"),
        Entry("empty", 1, False, "stop"),
        Entry("too_long", 0, False, ""),
    ]
    assert summary(entries) == {
        "rows": 2,
        "tokens": 150,
        "looping": 1,
        "length_limited": 1,
        "dropped": {"empty": 1, "too_long": 1},
    }


def test_thinking_needs_a_template_with_the_switch() -> None:
    with pytest.raises(RecipeError, match="no variable 'enable_thinking'"):
        thinking_modes({"thinking": "both"}, CHATML)
    assert thinking_modes({"thinking": "both"}, "{{ enable_thinking }}") == (False, True)
    assert thinking_modes({"thinking": "off"}, CHATML) == (False,)


def test_the_switch_is_set_either_way_and_the_recipes_own_arguments_win() -> None:
    template = "{{ enable_thinking }}"
    assert template_arguments({}, template, False) == {"enable_thinking": False}
    assert template_arguments({}, CHATML, False) == {}
    verifier = {"chat_template_kwargs": {"enable_thinking": True, "style": "brief"}}
    assert template_arguments(verifier, template, False) == {"enable_thinking": True, "style": "brief"}
