"""What is known about a verifier without loading it: depth, widths, vocabulary, context.

Cross-field rules need these numbers while the model may be hundreds of gigabytes away, so they are
looked up where they cost nothing: the model's own folder, the local Hugging Face cache, and facts
committed with this package for the verifiers of the recipes that ship.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.recipe.hub_cache import snapshots
from speculators.recipe.tensor_headers import headers_of, sizes

#: Without these a config says nothing that a rule could use.
COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)

#: Tokens of models whose published configs leave them to the class (transformers 5.19).
CLASS_VOCABULARIES = {"gemma3_text": 262208}


class VerifierFacts(NamedTuple):
    """Numbers of a verifier's config.json; ``source`` says where they were read."""

    source: str
    architecture: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_parameters: dict[str, Any]
    max_position_embeddings: int
    tie_word_embeddings: bool
    parameters: int = 0  # all of a mixture of experts, where they are known; 0: not said
    weights_bytes: int = 0  # as the weights are published, where their headers are known; 0: not said


def facts_from_config(config: Mapping[str, Any], source: str) -> VerifierFacts | None:
    """Facts of a Hugging Face ``config.json``; None when it is not that of a text decoder."""
    text = verifier_text(config)
    text = {"vocab_size": CLASS_VOCABULARIES.get(str(text.get("model_type", ""))), **text}
    if not all(_is_count(text.get(name)) for name in COUNTS):
        return None
    heads = text["num_attention_heads"]
    architectures = config.get("architectures") or [""]
    return VerifierFacts(
        source=source,
        architecture=str(architectures[0]),
        model_type=str(text.get("model_type", "")),
        **{name: text[name] for name in COUNTS},
        num_key_value_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        rms_norm_eps=text.get("rms_norm_eps", 1e-6),
        rope_parameters=rope_parameters(text),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings"))),
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def find_facts(verifier: Mapping[str, Any], folder: Path, environ: Mapping[str, str]) -> VerifierFacts | None:
    """Facts of a recipe's ``verifier`` block; relative paths start at ``folder``.  None when unknown."""
    for config, source in _configs(verifier, folder, environ):
        if facts := facts_from_config(config, source):
            return facts
    return _committed(verifier)


def _configs(
    verifier: Mapping[str, Any], folder: Path, environ: Mapping[str, str]
) -> Iterator[tuple[Any, str]]:
    if path := verifier.get("path"):
        yield from _read(folder / path / "config.json", f"{path}/config.json")
    if repository := verifier.get("repository"):
        revision = verifier.get("revision") or "main"
        for snapshot in snapshots(repository, revision, environ):
            source = f"config.json of {repository}@{snapshot.name[:7]} in the local Hugging Face cache"
            yield from _read(snapshot / "config.json", source)


def _read(path: Path, source: str) -> Iterator[tuple[Any, str]]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(config, dict):
        yield config, source


def _committed(verifier: Mapping[str, Any]) -> VerifierFacts | None:
    if document := committed(verifier):
        known = {**document["facts"], **(sizes(headers) if (headers := headers_of(document)) else {})}
        return VerifierFacts(source=f"facts committed as {document['name']}", **known)
    return None


def committed_revision(repository: str) -> str | None:
    """The revision of ``repository`` whose facts are committed, if there is one."""
    found = (document["verifier"] for document in _documents())
    return next((one.get("revision") for one in found if one.get("repository") == repository), None)


def committed(verifier: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is committed of exactly this source; another revision is another model.

    ``facts`` are those of ``VerifierFacts``, ``config`` further keys that an engine needs to build its
    configuration, ``outer`` the keys around them where the text model is a part of the whole, and
    ``tensors`` what the headers of its weight files list.
    """
    for document in _documents():
        if all(verifier.get(name) == value for name, value in document["verifier"].items()):
            return document
    return None


def _documents() -> Iterator[dict[str, Any]]:
    for file in resources.files("speculators").joinpath("recipe/verifier_facts").iterdir():
        if file.name.endswith(".json"):
            yield {"name": file.name, **json.loads(file.read_text(encoding="utf-8"))}
