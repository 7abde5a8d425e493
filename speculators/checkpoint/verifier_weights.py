"""The three tensors a draft borrows from its verifier: embedding, final norm, output head.

Guessing a tensor by the end of its name has silently picked a vision tower's norm or an embedding
in place of a quantised head elsewhere; here names must match exactly, and a verifier whose output
is not ``head(rms_norm(state))`` is refused instead of being mis-taught.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from speculators.documents import read_json
from speculators.errors import StageError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"

# Families whose RMSNorm multiplies by (1 + weight): reading their weight as a plain factor gives
# wrong targets without any error.
ONE_PLUS_NORMS = ("gemma", "qwen3_next", "qwen3_5")

# Config keys that put something between the head and the logits, and the value that means nothing.
LOGIT_TRANSFORMS = {"logits_scaling": 1.0, "logit_scale": 1.0, "final_logit_softcapping": None}


class VerifierWeights(NamedTuple):
    """As stored, in the verifier's dtype; with a tied head, ``head is embedding``."""

    embedding: torch.Tensor  # [V, H]
    final_norm: torch.Tensor  # [H]
    norm_eps: float
    head: torch.Tensor  # [V, H]


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor of a safetensors model folder, indexed or single.

    Raises:
        StageError: the folder holds neither an index nor ``model.safetensors``.
    """
    if (folder / INDEX_NAME).is_file():
        return {name: folder / file for name, file in read_json(folder / INDEX_NAME)["weight_map"].items()}
    single = folder / SINGLE_NAME
    if not single.is_file():
        raise StageError(
            f"{folder}: neither {INDEX_NAME} nor {SINGLE_NAME}",
            hint="the verifier must be a safetensors model folder",
            rule="verifier-weights",
        )
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single)


def load_verifier_weights(folder: Path) -> VerifierWeights:
    """Embedding, final norm and head of a Llama-like model folder.

    Raises:
        StageError: a tensor is missing or quantised, or the output is not ``head(rms_norm(state))``.
    """
    config = read_json(folder / "config.json")
    refuse_unlike(config, folder)
    tied = bool(config.get("tie_word_embeddings", False))
    files = tensor_files(folder)
    # A tied checkpoint may carry its head all the same; engines then ignore it, and so do we.
    needed = [EMBEDDING, FINAL_NORM] + ([] if tied else [HEAD])
    missing = [name for name in needed if name not in files]
    if missing:
        raise StageError(
            f"{folder}: no tensor {', '.join(missing)} (tie_word_embeddings is {str(tied).lower()})",
            hint="only Llama-like layouts with unquantised embedding, norm and head can be taught from",
            rule="verifier-weights",
        )
    tensors = {name: read_tensor(files[name], name) for name in needed}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise StageError(
                f"{files[name]}: {name} is stored as {tensor.dtype}, not as floating point",
                hint="use a verifier whose embedding, norm and head are not quantised",
                rule="verifier-weights",
            )
    embedding = tensors[EMBEDDING]
    return VerifierWeights(
        embedding=embedding,
        final_norm=tensors[FINAL_NORM],
        norm_eps=float(config["rms_norm_eps"]),
        head=embedding if tied else tensors[HEAD],
    )


def refuse_unlike(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ``StageError`` where logits are not ``head(rms_norm(state))`` with a plain norm weight."""
    model_type = str(config.get("model_type", ""))
    reasons = [
        f"{key} is {config[key]!r}"
        for key, neutral in LOGIT_TRANSFORMS.items()
        if config.get(key, neutral) not in (None, neutral)
    ]
    if model_type.startswith(ONE_PLUS_NORMS):
        reasons.append(f"model type {model_type!r} has (1 + weight) norms")
    if "rms_norm_eps" not in config:
        reasons.append("the config has no rms_norm_eps")
    if reasons:
        raise StageError(
            f"{folder / 'config.json'}: cannot compute this verifier's logits: {'; '.join(reasons)}",
            hint="this verifier family is not supported yet",
            rule="verifier-family",
        )


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor of a safetensors file, without reading the others."""
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
