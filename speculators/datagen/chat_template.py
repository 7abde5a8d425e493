"""A model folder's chat template, read without the libraries that load a tokenizer.

The host has none of them, and needs it for the lock and for the benchmark's requests.
"""

from __future__ import annotations

from pathlib import Path

from speculators.documents import known_json

__all__ = ["chat_template"]


def chat_template(folder: Path) -> str | dict[str, str]:
    """The chat template of a model's folder as its tokenizer would have it.

    Its text, empty where there is none; texts by name where there may be several.
    """
    file, more = folder / "chat_template.jinja", folder / "additional_chat_templates"
    try:
        if more.is_dir():
            named = {"default": file, **{path.stem: path for path in sorted(more.glob("*.jinja"))}}
            return {name: path.read_text(encoding="utf-8") for name, path in named.items() if path.is_file()}
        if file.is_file():
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
    found = known_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        return {str(one.get("name")): str(one.get("template")) for one in found if isinstance(one, dict)}
    return found if isinstance(found, str) else ""
