"""The ends a draft borrows from its verifier: embedding, final norm, output head.

Guessing a tensor by the end of its name has silently picked a vision tower's norm or an embedding
in place of a quantised head elsewhere; where they lie and what they compute is decided by
``verifier_layout``, and a verifier that it does not know is refused instead of being mis-taught.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from speculators.checkpoint.dequantise import PARTS, dequantised
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.verifier_layout import text_config, verifier_layout
from speculators.checkpoint.weights_file import Stored, damaged, mapped, read_header
from speculators.errors import StageError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class VerifierWeights(NamedTuple):
    """As stored, in the verifier's dtype; with a tied head, ``head is embedding``.

    The embedding is the table itself: what some families multiply it by (Gemma) is not applied,
    because engines share the bare table with a draft.  ``final_norm`` is the factor: where a family
    stores its difference from one, the one is added, in float32 as the family computes it.
    """

    embedding: torch.Tensor  # [V, H]
    final_norm: torch.Tensor  # [H]
    norm_eps: float
    head: torch.Tensor  # [V, H]
    norm_bias: torch.Tensor | None = None  # [H]
    centred: bool = False  # the norm is a LayerNorm
    logit_scale: float = 1.0
    soft_cap: float | None = None

    def to(self, device: torch.device | None, dtype: torch.dtype, head: bool = True) -> VerifierWeights:
        """All tensors on ``device``, embedding and head in ``dtype``; a tied head stays tied, another may
        stay as it is.  The norm keeps its own: ``1 + w`` has digits that half precision has not.
        """
        embedding, moved = self.embedding.to(device, dtype), self.head
        if self.head is self.embedding:
            moved = embedding
        elif head:
            moved = self.head.to(device, dtype)
        return self._replace(
            embedding=embedding,
            final_norm=self.final_norm.to(device),
            head=moved,
            norm_bias=None if self.norm_bias is None else self.norm_bias.to(device),
        )

    def normed(self, states: torch.Tensor) -> torch.Tensor:
        """States after the last layer [..., H] -> after the final norm [..., H], in their dtype.

        Computed in float32 at least, as every family does.
        """
        wide = torch.promote_types(states.dtype, torch.float32)
        weight, bias = (None if part is None else part.to(wide) for part in (self.final_norm, self.norm_bias))
        size = self.final_norm.shape
        if self.centred:
            return functional.layer_norm(states.to(wide), size, weight, bias, self.norm_eps).to(states.dtype)
        return functional.rms_norm(states.to(wide), size, weight, self.norm_eps).to(states.dtype)

    def shaped(self, logits: torch.Tensor) -> torch.Tensor:
        """What lies between head and logits: a factor, then cap * tanh(x / cap).

        Both rise, so they leave the most likely token; probabilities they change.
        """
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """The verifier's logits of states after its last layer: [..., H] -> [..., V]."""
        return self.shaped(self.normed(states) @ self.head.to(states.dtype).T)


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor of a safetensors model folder, indexed or single.

    Raises:
        StageError: the folder holds neither an index nor ``model.safetensors`` nor one other
            safetensors file, or its index is not one or names a file outside the folder.
    """
    if (folder / INDEX_NAME).is_file():
        return indexed_files(folder)
    single = folder / SINGLE_NAME
    if not single.is_file():
        others = sorted(folder.glob("*.safetensors"))
        if len(others) != 1:
            raise StageError(
                f"{folder}: neither {INDEX_NAME} nor {SINGLE_NAME}",
                hint="the verifier must be a safetensors model folder",
                rule="verifier-weights",
            )
        (single,) = others
    return dict.fromkeys(read_header(single)[0], single)


def indexed_files(folder: Path) -> dict[str, Path]:
    """What the index of a model in several files says."""
    try:
        names = read_object(folder / INDEX_NAME)["weight_map"]
        outside = [
            file for file in names.values() if Path(file).name != file or not (folder / file).is_file()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "copy or download the model again"
        message = f"{folder / INDEX_NAME}: no index of tensors: {error!r}"
        raise StageError(message, hint=hint, rule="verifier-weights") from error
    if outside:
        raise StageError(
            f"{folder / INDEX_NAME}: names {outside[0]!r}, which is no file of this folder",
            hint="copy or download the model again, with all its files",
            rule="verifier-weights",
        )
    return {name: folder / file for name, file in names.items()}


def load_verifier_weights(folder: Path) -> VerifierWeights:
    """Embedding, final norm and head of a model folder.

    Raises:
        StageError: a tensor is missing or quantised in an unknown way, or the logits are not
            ``cap(scale * head(norm(state)))``.
    """
    config = read_object(folder / "config.json")
    files = tensor_files(folder)
    layout = verifier_layout(config, files.keys(), str(folder))
    rule = layout.rule
    tensors = StoredTensors(files)
    embedding = read_module(tensors, layout.embedding, config)
    final_norm = tensors[f"{layout.norm}.weight"]
    return VerifierWeights(
        embedding=embedding,
        final_norm=1.0 + final_norm.float() if rule.one_plus else final_norm,
        norm_eps=rule.norm_eps,
        head=embedding if layout.head is None else read_module(tensors, layout.head, config),
        norm_bias=tensors[layout.norm_bias] if layout.norm_bias else None,
        centred=rule.centred,
        logit_scale=rule.logit_scale,
        soft_cap=rule.soft_cap,
    )


def read_module(tensors: StoredTensors, module: str, config: Mapping[str, Any]) -> torch.Tensor:
    """The weight of a linear layer or embedding [N, K], dequantised if need be.

    Raises:
        StageError: it is quantised in an unknown way, or the config says of it what cannot be.
    """
    parts = {part: tensors[name] for part in PARTS if (name := f"{module}.{part}") in tensors.files}
    quantisation = config.get("quantization_config") or text_config(config).get("quantization_config") or {}
    folder = next(iter(tensors.files.values())).parent
    return dequantised(parts, quantisation, f"{folder}: {module}.weight")


class StoredTensors:
    """Tensors of a model by their names, read from its files without the others.

    ``files``: in which file the index says that each is.  Headers are read with suspicion, and once a file.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self.headers: dict[Path, dict[str, Stored]] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        """One tensor, as pages of its file.

        Raises:
            StageError: the file is damaged, or has no such tensor.
        """
        path = self.files[name]
        if path not in self.headers:
            self.headers[path], _ = read_header(path)
        if name not in self.headers[path]:
            raise damaged(path, f"has no {name}, which the index says is there")
        return mapped(self.headers[path][name])
