"""The verifier as every later stage wants it: one local folder of safetensors with its tokenizer.

Engines, trainers and converters disagree on where models come from; preparing the folder once, with
a canonical name and a digest, leaves a single answer to "which verifier was that?".
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.rope import rope_parameters
from speculators.documents import file_digest, read_json
from speculators.errors import MachineError, RecipeError, StageError

__all__ = [
    "Source",
    "eos_token_ids",
    "facts",
    "from_brought",
    "from_folder",
    "from_hub",
    "template_digest",
    "tokenizer_digest",
]

WEIGHTS = ".safetensors"

#: What a serving folder needs beside its weights.  Pickled weights and, unless trusted, code stay out.
SMALL_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")

#: Facts that later stages and checks use, under the names that transformers gives them.
FACTS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "tie_word_embeddings",
)


class Source(NamedTuple):
    """A prepared verifier: its canonical name, which never contains a path of this machine."""

    id: str
    folder: Path


def from_folder(source: Path, target: Path, *, identity: str, trust_remote_code: bool = False) -> Source:
    """Fill ``target`` with copies from a folder of safetensors.

    Raises:
        RecipeError: ``source`` is no folder, or lacks config, weights or tokenizer.
    """
    if not source.is_dir():
        raise RecipeError(
            f"verifier.path {source}: no such folder",
            hint="paths are relative to the recipe",
            rule="verifier-missing",
        )
    # No links: whoever trains on in that folder would change an output that is stored already.
    return _filled(source, target, identity, _copy, trust_remote_code)


def from_hub(
    repository: str, revision: str | None, target: Path, *, trust_remote_code: bool = False
) -> Source:
    """Fill ``target`` from the local hub cache; the network is never used.

    Raises:
        MachineError: the cache lacks that revision.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        at = f" --revision {revision}" if revision else ""
        raise MachineError(
            f"verifier {repository}{f'@{revision}' if revision else ''}: not in the local hub cache",
            hint=f"fetch it once where there is a network: hf download {repository}{at}",
            rule="verifier-missing",
        ) from error
    # A snapshot folder is named by its commit, whatever branch or tag was asked for.
    identity = f"{repository}@{snapshot.name}"
    # The hub's client never changes a blob that it has written.
    return _filled(snapshot, target, identity, _link, trust_remote_code)


def from_brought(source: Path, target: Path, *, trust_remote_code: bool = False) -> Source:
    """Fill ``target`` from a folder that a recipe names, or from a snapshot in the hub's cache.

    Raises:
        RecipeError: ``source`` is no folder, or lacks config, weights or tokenizer.
    """
    kept = source.parent.parent.name
    if source.parent.name != "snapshots" or not kept.startswith("models--"):
        return from_folder(
            source, target, identity=f"local:{source.name}", trust_remote_code=trust_remote_code
        )
    identity = f"{kept.removeprefix('models--').replace('--', '/', 1)}@{source.name}"
    return _filled(source, target, identity, _link, trust_remote_code)


def facts(folder: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """What checks and drafts need to know of the verifier: its architecture and the ``FACTS``."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    known: dict[str, Any] = {name: getattr(text, name, None) for name in FACTS}
    known["head_dim"] = known["head_dim"] or known["hidden_size"] // known["num_attention_heads"]
    # Some families write one for each kind of layer; read as one, its base would be missing.
    known["rope_parameters"] = rope_parameters(text.to_dict())
    known["num_key_value_heads"] = known["num_key_value_heads"] or known["num_attention_heads"]
    architectures = config.architectures or [None]
    return {"architecture": architectures[0], **known}


def eos_token_ids(folder: Path, *, trust_remote_code: bool = False) -> list[int]:
    """Tokens that end a turn, ascending: the generation config's, the config's and the tokenizer's."""
    from transformers import AutoTokenizer

    found: set[int | None] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        found.update(value if isinstance(value, list) else [value])
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    found.add(tokenizer.eos_token_id)
    return sorted(token for token in found if token is not None)


def template_digest(folder: Path, *, trust_remote_code: bool = False) -> str:
    """SHA-256 of the chat template's text.

    Raises:
        RecipeError: the tokenizer has no chat template.
    """
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code).chat_template
    if not template:
        raise RecipeError(
            f"{folder.name}: the tokenizer has no chat template",
            hint="speculators are trained on chats: choose an instruct model",
            rule="no-chat-template",
        )
    return hashlib.sha256(str(template).encode()).hexdigest()


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the tokenizer's file (``tokenizer.json``, or a sentencepiece model)."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return file_digest(folder / name)
    raise StageError(f"{folder}: neither tokenizer.json nor tokenizer.model", rule="no-tokenizer")


def _filled(
    source: Path, target: Path, identity: str, place: Callable[[Path, Path], None], trusted: bool
) -> Source:
    """Small files copied into ``target``, weights put there by ``place``."""
    target.mkdir(parents=True)
    patterns = SMALL_FILES + (("*.py",) if trusted else ())
    for path in sorted({found for pattern in patterns for found in source.glob(pattern)}):
        _copy(path, target / path.name)
    for path in sorted(source.glob("*" + WEIGHTS)):
        place(path.resolve(), target / path.name)
    _require_complete(source, target)
    return Source(identity, target)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _link(source: Path, target: Path) -> None:
    """Hard-link where the file system allows it, else copy, which costs the weights' size once more.

    Never a symlink: later stages see this folder and not the cache, and a cache may be pruned.  Two bind
    mounts are two file systems to a link, so in a container there is always a copy.
    """
    try:
        os.link(source, target)
    except OSError:  # another file system, one without links, or a cache of another user
        _copy(source, target)


def _require_complete(source: Path, target: Path) -> None:
    missing = [
        what
        for what, present in (
            ("config.json", (target / "config.json").is_file()),
            ("*.safetensors", any(target.glob("*" + WEIGHTS))),
            ("a tokenizer", any((target / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))),
        )
        if not present
    ]
    if missing:
        raise RecipeError(
            f"verifier {source}: lacks {', '.join(missing)}",
            hint="a verifier folder holds config.json, *.safetensors and tokenizer files",
            rule="verifier-incomplete",
        )
