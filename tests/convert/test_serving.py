"""The source-layout forwards that engines are compared with say what our own models say once converted.

``tests/inspection/test_drafting.py`` compares them with vLLM; here without an engine, on random states.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speculators.checkpoint.read import read_checkpoint
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.convert.run import Request, convert
from speculators.datagen.shards import Document
from speculators.inspection.replay import questioned
from speculators.training.packing import pack
from tests.convert.serving import HIDDEN, LAYERS, LAYOUTS, VOCAB
from tests.models.words import write_words_model

ROWS, STEPS, DEPTH = 12, 3, 4


#: Our own models have no biases.
OURS = [layout for layout in LAYOUTS if layout != "eagle, biased"]


@pytest.mark.parametrize("layout", OURS)
def test_the_source_forward_guesses_as_the_converted_draft(layout: str, tmp_path: Path) -> None:
    write_words_model(tmp_path / "verifier")
    ends = load_verifier_weights(tmp_path / "verifier")
    source = LAYOUTS[layout].make(tmp_path / "source")
    told = Request(str(source), str(tmp_path / "verifier"), speculative_tokens=STEPS, **LAYOUTS[layout].told)
    assert convert(told, tmp_path / "new").kind == layout
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCAB, (ROWS,), generator=generator)
    states = torch.randn(ROWS, DEPTH + 1, HIDDEN, generator=generator)
    document = Document("a", "g", "train", False, 2, tokens, states)
    theirs = LAYOUTS[layout].draft(source, ends, document, STEPS)  # [ROWS - 1, STEPS]
    columns = [DEPTH] if layout == "eagle" else [*LAYERS, DEPTH]
    sequence = pack([document._replace(hidden_states=states[:, columns])])
    with torch.inference_mode():
        ours = questioned(read_checkpoint(tmp_path / "new"), ends, STEPS).propose(sequence, STEPS)
    known = ours[:-1] >= 0
    assert known[:, 0].sum() > ROWS // 2
    assert torch.equal(ours[:-1, 0][known[:, 0]], theirs[:, 0][known[:, 0]])
    if layout == "dflash":  # one pass: no guess depends on another
        assert torch.equal(ours[:-1][known], theirs[known])
