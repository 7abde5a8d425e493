"""Checkpoints through the reference's own reader and writer, in the reference's process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from speculators import SpeculatorModel, SpeculatorModelConfig


def digest(tensor: torch.Tensor) -> str:
    """Of shape and values: the reference holds all tensors of a checkpoint in one type, the widest."""
    whole = tensor.detach().contiguous()
    values = (whole.double() if whole.is_floating_point() else whole).numpy().tobytes()
    return hashlib.sha256(f"{list(tensor.shape)}".encode() + values).hexdigest()


def taken(folder: str, out: str) -> dict[str, Any]:
    """Load the checkpoint in ``folder`` and save it again into ``out``.

    Returns the class, the config as the reference holds it, and a digest of every tensor in memory.
    """
    model = SpeculatorModel.from_pretrained(folder, dtype="auto")
    model.save_pretrained(out)
    return {
        "model": type(model).__name__,
        "config": json.loads(json.dumps(model.config.to_dict(), default=str)),
        "tensors": {name: digest(tensor) for name, tensor in model.state_dict().items()},
    }


def made(config: str, out: str, draft_ids: list[int] | None) -> dict[str, Any]:
    """A draft with the ``config.json`` in the folder ``config`` and random weights, saved into ``out``."""
    read = SpeculatorModelConfig.from_pretrained(config)
    kind = SpeculatorModel.registered_model_class_from_config(read)
    model = kind(read)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    if draft_ids is not None:
        ids = torch.tensor(draft_ids)
        kept = torch.zeros(read.transformer_layer_config.vocab_size, dtype=torch.bool)
        kept[ids] = True
        model.load_vocab_mappings(kept, ids - torch.arange(len(ids)))
    model.save_pretrained(out)
    files = sorted(path.name for path in Path(out).iterdir())
    return {"model": kind.__name__, "files": files}
