"""A prepared dataset by the reference's own command, and what its own loader makes of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from speculators.cli.prepare_data import prepare_data
from speculators.train.data import ArrowDataset

TENSORS = ("hidden_states", "verifier_last_hidden_states", "input_ids", "loss_mask")


def prepared(model: str, rows: str, out: str) -> dict[str, Any]:
    """``prepare-data`` of a file of rows that have their ids and masks, into the folder ``out``."""
    prepare_data(model=model, data=[rows], output=out, seq_length=128, num_preprocessing_workers=1)
    return {"files": sorted(path.name for path in Path(out).iterdir())}


def loaded(folder: str, out: str) -> dict[str, Any]:
    """Every row as training gets it, each tensor written to ``out`` as ``{row}.{name}``."""
    rows = ArrowDataset(max_len=128, datapath=folder, on_missing="raise")
    tensors = {f"{number}.{name}": rows[number][name] for number in range(len(rows)) for name in TENSORS}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)
    return {"rows": len(rows)}
