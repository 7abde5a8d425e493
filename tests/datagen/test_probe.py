from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from speculators.datagen.probe import (
    TOLERANCES,
    GreedyMatch,
    LayerMatch,
    Reference,
    greedy_match,
    layer_matches,
    problems,
)
from speculators.datagen.shards import Document

DEPTH, WIDTH, TOKENS, PROMPT = 6, 8, 12, 5
TOLERANCE = TOLERANCES[torch.float32]


def make_reference(seed: int) -> Reference:
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randn(DEPTH + 1, TOKENS, WIDTH, generator=generator)
    layers[2:, 0] *= 20_000  # the massive activations that real models put on their first token
    return Reference(layers, lambda states: states)


REFERENCES = [make_reference(seed) for seed in range(3)]


def capture(layers: Sequence[int]) -> list[Document]:
    """Flawless states of the given layers; the "vocabulary" is the hidden axis itself."""
    return [
        Document(
            id=f"row-{number}",
            group="tides",
            split="train",
            looping=False,
            prompt_tokens=PROMPT,
            token_ids=torch.cat(
                [torch.zeros(PROMPT, dtype=torch.long), reference.layers[-1, PROMPT - 1 : -1].argmax(-1)]
            ),
            hidden_states=reference.layers[list(layers)].transpose(0, 1),
        )
        for number, reference in enumerate(REFERENCES)
    ]


def complaints(documents: list[Document], claimed: Sequence[int]) -> list[str]:
    matches = layer_matches(documents, REFERENCES, claimed)
    return problems(documents, matches, greedy_match(documents, REFERENCES, TOLERANCE.tie), TOLERANCE)


def test_flawless_states_pass() -> None:
    assert complaints(capture([1, 3, 6]), [1, 3, 6]) == []


def test_a_wrong_layer_is_named_with_the_layer_that_it_equals() -> None:
    (complaint,) = complaints(capture([1, 4, 6]), [1, 3, 6])
    assert complaint.startswith("the states called layer 3 differ from it by ")
    assert "it equals layer 4" in complaint


def test_states_of_no_layer_are_called_so() -> None:
    documents = capture([1, 3, 6])
    for document in documents:
        document.hidden_states[:, 1] *= 1.5
    (complaint,) = complaints(documents, [1, 3, 6])
    assert "nearest is layer" in complaint


def test_states_of_another_row_of_the_batch_are_found() -> None:
    documents = capture([1, 3, 6])
    mixed = [
        one._replace(hidden_states=other.hidden_states) for one, other in zip(documents, documents[::-1])
    ]
    assert any("layer 1 differ" in complaint for complaint in complaints(mixed, [1, 3, 6]))


@pytest.mark.parametrize(("value", "cause"), [(0.0, "a token's state is zero"), (float("nan"), "not finite")])
def test_one_empty_or_broken_state_is_found(value: float, cause: str) -> None:
    documents = capture([1, 3, 6])
    documents[1].hidden_states[7, 0] = value
    assert any("row-1" in complaint and cause in complaint for complaint in complaints(documents, [1, 3, 6]))


def test_a_last_layer_that_leads_elsewhere_is_found() -> None:
    documents = capture([1, 3, 5])
    found = complaints(documents, [1, 3, 6])
    assert any("the engine's own token at" in complaint for complaint in found)


def test_tied_tokens_are_set_aside() -> None:
    (document,) = capture([6])[:1]
    best = document.hidden_states[PROMPT - 1, -1].topk(2)
    reference = REFERENCES[0]
    states = document.hidden_states.clone()
    states[PROMPT - 1, -1, best.indices[1]] = best.values[0] + TOLERANCE.tie / 2
    match = greedy_match([document._replace(hidden_states=states)], [reference], TOLERANCE.tie)
    assert match == GreedyMatch(positions=TOKENS - PROMPT, ties=1, agreeing=TOKENS - PROMPT - 1)
    assert match.share == 1.0


def test_no_compared_position_is_no_agreement() -> None:
    assert GreedyMatch(positions=4, ties=4, agreeing=0).share == 0.0


def test_distances_are_zero_for_exact_states() -> None:
    assert layer_matches(capture([2]), REFERENCES, [2]) == [LayerMatch(2, 0.0, 2, 0.0)]
