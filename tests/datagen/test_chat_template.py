"""Where a model's folder keeps its chat template, and that a tokenizer finds the same one there."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from speculators.datagen.chat_template import chat_template
from tests.models.words import write_words_model


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"chat_template.jinja": "a", "tokenizer_config.json": '{"chat_template": "b"}'}, "a"),
        ({"tokenizer_config.json": '{"chat_template": "b"}'}, "b"),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "tool", "template": "b"}]}'}, {"tool": "b"}),
        ({"tokenizer_config.json": "{broken"}, ""),
        ({"chat_template.jinja": b"\xff"}, ""),
        (
            {"chat_template.jinja": "a", "additional_chat_templates/tool.jinja": "b"},
            {"default": "a", "tool": "b"},
        ),
        ({}, ""),
    ],
)
def test_a_chat_template_is_found_wherever_it_is(
    tmp_path: Path, files: dict[str, str | bytes], template: str | dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert chat_template(tmp_path) == template


def test_a_tokenizer_finds_the_same(tmp_path: Path) -> None:
    write_words_model(tmp_path / "model")
    found = chat_template(tmp_path / "model")
    assert found
    assert found == AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    more = tmp_path / "model" / "additional_chat_templates"
    more.mkdir()
    (more / "tool.jinja").write_text("b")
    assert (
        chat_template(tmp_path / "model") == AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    )
