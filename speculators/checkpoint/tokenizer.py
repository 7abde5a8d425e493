"""What a tokenizer says, whatever its file looks like.

Two copies of one tokenizer are seldom equal byte for byte: quantisers save it again, and every version
of the tokenizers library spells merges and defaults its own way.  A draft depends on which id each
token has, on the order in which pieces are merged, and on the chat template that its training texts
were rendered with; so these are compared.  Standard library only: the host has no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.check import Check
from speculators.checkpoint.folder import read_object
from speculators.datagen.chat_template import chat_template
from speculators.documents import file_digest, value_digest
from speculators.errors import StageError

TOKENIZER_NAME = "tokenizer.json"

#: Tokenizers that are compared by their bytes, in the order in which they are looked for.
OPAQUE = ("tokenizer.model", "tekken.json", "vocab.json")

#: What is fetched to know a verifier's tokenizer and config without its weights.
SMALL_FILES = ("*.json", "*.jinja", "*.model")

#: Keys of ``speculators_config.verifier`` that hold a ``Tokenizer``.
TOKENS_KEY, TEMPLATE_KEY = "tokenizer", "chat_template"


class Tokenizer(NamedTuple):
    """Digests: of every token's id and the merges, and of the chat template ("" where there is none)."""

    tokens: str
    template: str

    def recorded(self) -> dict[str, str]:
        """As a checkpoint's config keeps it."""
        return {TOKENS_KEY: self.tokens, TEMPLATE_KEY: self.template}


def tokenizer_of(folder: Path) -> Tokenizer | None:
    """The tokenizer in a model's folder; None where there is none.

    Raises:
        StageError: ``tokenizer.json`` is damaged.
    """
    template = chat_template(folder)
    said = value_digest(template) if template else ""
    if (folder / TOKENIZER_NAME).is_file():
        document = read_object(folder / TOKENIZER_NAME)
        return Tokenizer(value_digest([token_ids(document), merges(document)]), said)
    for name in OPAQUE:
        if (folder / name).is_file():
            return Tokenizer(file_digest(folder / name), said)
    return None


def recorded_tokenizer(document: Mapping[str, Any]) -> Tokenizer | None:
    """What a draft's ``config.json`` keeps of the tokenizer that it was trained with; None if nothing."""
    block = document.get("speculators_config")
    named = block.get("verifier") if isinstance(block, Mapping) else None
    tokens = named.get(TOKENS_KEY) if isinstance(named, Mapping) else None
    if not isinstance(named, Mapping) or not isinstance(tokens, str):
        return None
    return Tokenizer(tokens, str(named.get(TEMPLATE_KEY) or ""))


def token_ids(document: Mapping[str, Any]) -> dict[str, Any]:
    """Every token of a ``tokenizer.json`` and its id, added tokens included."""
    model = document.get("model")
    stored = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(stored, Mapping):
        ids = dict(stored)
    else:  # Unigram: [token, score] in the order of ids
        ids = {str(entry[0]): number for number, entry in enumerate(stored or ()) if entry}
    added = document.get("added_tokens") or ()
    return ids | {str(one.get("content")): one.get("id") for one in added if isinstance(one, Mapping)}


def merges(document: Mapping[str, Any]) -> list[list[Any]]:
    """The merges as pairs; older files join each with a space."""
    model = document.get("model")
    stored = (model.get("merges") if isinstance(model, Mapping) else None) or ()
    return [pair if isinstance(pair, list) else str(pair).split(" ") for pair in stored]


def token_differences(one: Path, other: Path) -> str:
    """How many tokens have another id in the folder ``other``, and the first of them.

    Empty where all agree, or where one of the two is not a ``tokenizer.json``.
    """
    paths = [folder / TOKENIZER_NAME for folder in (one, other)]
    if not all(path.is_file() for path in paths):
        return ""
    left, right = (token_ids(read_object(path)) for path in paths)
    unlike = sorted(token for token in left.keys() | right.keys() if left.get(token) != right.get(token))
    if not unlike:
        return ""
    first = unlike[0]
    return f"{len(unlike)} tokens differ, such as {first!r}: {left.get(first)} against {right.get(first)}"


def tokenizer_checks(folder: Path, document: Mapping[str, Any], verifier_dir: Path) -> Iterator[Check]:
    """The tokenizer that the draft was trained with, where it says so, against its verifier's.

    It says so in its config, or by a tokenizer of its own beside it.
    """
    try:
        known, given = recorded_tokenizer(document) or tokenizer_of(folder), tokenizer_of(verifier_dir)
    except StageError as error:
        yield Check("tokenizer readable", False, error.message, "warning")
        return
    if given is None or known is None:
        return
    same = known.tokens == given.tokens
    detail = token_differences(folder, verifier_dir) or "other token ids or merges than it was trained with"
    yield Check("tokenizer is the verifier's", same, "the same" if same else detail)
    if known.template:
        agrees = known.template == given.template
        detail = "the same" if agrees else "another than the draft was trained with"
        yield Check("chat template is the verifier's", agrees, detail, "warning")
