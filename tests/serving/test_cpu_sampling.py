"""The CPU build's rejection sampler with our expansion: drafted or not, tokens are drawn as asked."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tests.needs import needed

torch = needed("torch")
needed("vllm")

VOCABULARY = 5
LOGITS = (2.0, 1.0, 0.5, 0.0, -1.0)
DRAWS = 8000


@pytest.mark.parametrize("drafted", [0, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_drafted_place_is_drawn_from_the_verifiers_distribution(temperature: float, drafted: int) -> None:
    """Whatever is proposed; requests of other temperatures are in the batch, and greedy ones."""
    from vllm.platforms import current_platform
    from vllm.v1.sample.rejection_sampler import apply_sampling_constraints, rejection_sample

    import speculators.serving.cpu_sampling  # noqa: F401  importing it mends the engine

    current_platform.register_triton_kernel_overrides()
    torch.manual_seed(drafted)
    temperatures = torch.tensor([temperature, 0.0, 1.3] * DRAWS)  # [requests]
    requests = len(temperatures)
    asked = SimpleNamespace(
        temperature=temperatures, all_greedy=False, all_random=False, top_k=None, top_p=None, generators={}
    )
    counts = torch.arange(1, requests + 1, dtype=torch.int32)  # one drafted token a request
    logits = torch.tensor(LOGITS).repeat(requests, 1)  # [tokens, vocabulary]
    drawn = rejection_sample(
        torch.full((requests,), drafted, dtype=torch.int32),
        [1] * requests,
        1,
        counts,
        None,
        apply_sampling_constraints(logits, counts, asked),
        torch.zeros((requests, 1), dtype=torch.int32),
        asked,
    )[:, 0]
    ours, greedy, others = (drawn[place::3] for place in range(3))
    for tokens, by in ((ours, temperature), (others, 1.3)):
        found = torch.bincount(tokens.long(), minlength=VOCABULARY) / len(tokens)
        truth = torch.softmax(torch.tensor(LOGITS) / by, 0)
        assert float((found - truth).abs().max()) < 4 * math.sqrt(0.25 / DRAWS)
    assert greedy.unique().tolist() == [0]


def test_each_request_keeps_its_own_value_for_all_its_tokens() -> None:
    from speculators.serving.cpu_sampling import expand_batch_to_tokens

    found = expand_batch_to_tokens(torch.tensor([0.0, 0.7, 0.9]), torch.tensor([2, 2, 5]), 5, 0, 1)
    assert found.tolist() == pytest.approx([1.0, 1.0, 0.9, 0.9, 0.9])
    assert expand_batch_to_tokens(torch.tensor([3, 4]), torch.tensor([1, 3]), 3).tolist() == [3, 4, 4]
