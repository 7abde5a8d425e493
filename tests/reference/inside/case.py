"""One training step as a file: what two implementations need in order to compute the same thing.

Imports torch and safetensors only, because the process of the reference system reads it too, and
there this project cannot be imported: both packages have the same name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Case(NamedTuple):
    """Weights, one packed sequence of S tokens, and how it is to be unrolled and weighted.

    ``shape``: the draft's widths and norm flags, named as in ``speculators.checkpoint.eagle3``.
    ``draft``: the trained tensors under their checkpoint names.
    ``verifier``: ``embedding`` [V, H], ``final_norm`` [H], ``draft_ids`` [Vd] ascending, and ``head``
    [V, H] unless it is the embedding.
    ``batch``: ``token_ids``, ``document_ids``, ``positions`` [S] int64, ``supervised`` [S] bool (token i
    was generated), ``hidden_states`` [S, A + 1, H], the last layer's state last.
    """

    shape: dict[str, Any]
    steps: int
    step_decay: float
    draft: dict[str, torch.Tensor]
    verifier: dict[str, torch.Tensor]
    batch: dict[str, torch.Tensor]

    @property
    def head(self) -> torch.Tensor:
        """The verifier's, [V, H]."""
        return self.verifier.get("head", self.verifier["embedding"])

    def write(self, path: Path) -> Path:
        """One safetensors file, the numbers in its header."""
        groups = {"draft": self.draft, "verifier": self.verifier, "batch": self.batch}
        tensors = {
            f"{group}/{name}": tensor.detach().contiguous()
            for group, named in groups.items()
            for name, tensor in named.items()
        }
        numbers = {"shape": self.shape, "steps": self.steps, "step_decay": self.step_decay}
        save_file(tensors, path, {"case": json.dumps(numbers)})
        return path

    @classmethod
    def read(cls, path: Path) -> Case:
        groups: dict[str, dict[str, torch.Tensor]] = {"draft": {}, "verifier": {}, "batch": {}}
        with safe_open(path, framework="pt") as file:
            numbers = json.loads(file.metadata()["case"])
            for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                group, _, name = key.partition("/")
                groups[group][name] = file.get_tensor(key)
        return cls(**numbers, **groups)
