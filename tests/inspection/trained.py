"""A draft that knows its verifier's answers by heart: whatever is then changed about it, shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from speculators.inspection.probe import Texts
from tests.inspection import drafting
from tests.models.words import write_words_model

ALGORITHM: dict[str, Any] = {
    "layers": 1, "aux_layers": [1, 2, 3], "draft_vocabulary": 40, "norm_before_residual": True,
    "norm_before_fc": True, "fc_norm": False, "norm_output": True,
}  # fmt: skip
LEARNT = 12  # answers


def learnt(root: Path) -> tuple[Path, Path, Texts]:
    """Draft, verifier, and the answers with the states of every layer."""
    torch.set_num_threads(1)
    write_words_model(root / "verifier")
    answers = drafting.answer(root / "verifier")[:LEARNT]
    drafting.make_draft("eagle3", root / "verifier", answers, root / "eagle3", ALGORITHM, epochs=60)
    return root / "eagle3" / "model", root / "verifier", Texts(answers, tuple(range(5)))
