"""Head and loss chunk by chunk: the same numbers, and never more logits than a chunk's."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from speculators.training import chunked
from speculators.training.chunked import chunks, greedy_places, taught_gradients
from speculators.training.losses import Compared, WeightedSum
from speculators.training.step_cost import GPU_CHUNK_BYTES
from speculators.training.ttt import TrainTimeTest
from tests.models import tiny

STEPS = 3
WORDS = tiny.CONFIG.draft_vocab_size
LOSS = WeightedSum({"forward_kl": 1.0, "jensen_shannon": 0.5})
ENDS = {"as it is": {}, "capped and scaled": {"soft_cap": 3.0, "logit_scale": 0.5}}


def world(**ends):
    """A verifier, a batch's states and taught tokens, and K normed states that need gradients."""
    verifier = tiny.frozen()
    verifier = verifier._replace(ends=verifier.ends._replace(**ends))
    objective = TrainTimeTest(tiny.draft(), verifier, tiny.Teaching(STEPS))
    (batch,) = tiny.batches(
        objective, [tiny.document(9, 4, 1), tiny.document(50, 20, 2), tiny.document(4, 1, 3)]
    )
    normed = [one.detach().requires_grad_() for one in objective.unroll(batch.sequence, batch.rows)]
    return verifier, batch.sequence.hidden_states[:, -1], batch.rows.taught, normed


def whole(verifier, states, taught, normed, weights) -> torch.Tensor:
    """The sums of divergences with all logits at once; leaves gradients in ``normed``."""
    opinions = verifier.draft_logits(states[taught.opinions])
    sums = [
        (LOSS.value(Compared.of(one[place] @ verifier.spoken_head.T, opinions)) * counted).sum()
        for one, place, counted in zip(normed, taught.places, taught.counted)
    ]
    (torch.stack(sums) * weights).sum().backward()
    return torch.stack(sums).detach()


@pytest.mark.parametrize("rows", [1, 4, 1000], ids=["a token", "a few tokens", "all tokens"])
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("own_head", [False, True], ids=["the verifier's head", "a head of its own"])
def test_chunks_add_up_to_the_whole(monkeypatch, rows: int, ends, own_head: bool) -> None:
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", rows * (STEPS + 1) * WORDS * 4)
    verifier, states, taught, normed = world(**ends)
    if own_head:
        verifier = verifier._replace(own_head=verifier.draft_head.flip(0))
    weights = torch.tensor([0.5, 0.25, 2.0], dtype=torch.float64)
    sums, gradients = taught_gradients(verifier, normed, states, taught, weights, LOSS)
    torch.testing.assert_close(sums, whole(verifier, states, taught, normed, weights))
    for gradient, one in zip(gradients, normed):
        torch.testing.assert_close(gradient, one.grad)
    best = greedy_places(verifier, normed, taught)
    for step, (one, place) in enumerate(zip(normed, taught.places)):
        assert torch.equal(best[step], (one[place] @ verifier.spoken_head.T).argmax(-1))


class LogitRows(TorchDispatchMode):
    """The most rows of any tensor that is as wide as the draft vocabulary."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor) and part.dim() > 1 and part.shape[-1] == WORDS:
                self.most = max(self.most, part.shape[:-1].numel())
        return made


def test_no_more_logits_exist_than_a_chunk_s(monkeypatch) -> None:
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", 5 * (STEPS + 1) * WORDS * 4)
    verifier, states, taught, normed = world()
    with LogitRows() as seen:
        taught_gradients(verifier, normed, states, taught, torch.ones(STEPS), LOSS)
    assert seen.most == 5 * (STEPS + 1) < len(taught.opinions)


def test_a_gpu_gets_more_rows_at_once_than_a_cpu() -> None:
    verifier, _, taught, _ = world()
    many = taught._replace(places=taught.places.new_zeros(STEPS, 10**6))
    sizes = {
        kind: next(chunks(verifier._replace(draft_head=verifier.draft_head.to(kind)), many))
        for kind in ("cpu", "meta")
    }
    bytes_of = {kind: one.stop * (STEPS + 1) * WORDS * 4 for kind, one in sizes.items()}
    assert bytes_of["cpu"] == pytest.approx(chunked.CHUNK_BYTES["cpu"], rel=1e-3)
    assert bytes_of["meta"] == pytest.approx(GPU_CHUNK_BYTES, rel=1e-3)


def test_nothing_taught_is_no_gradient() -> None:
    verifier, states, taught, normed = world()
    nothing = taught._replace(
        opinions=taught.opinions[:0], places=taught.places[:, :0], counted=taught.counted[:, :0]
    )
    sums, gradients = taught_gradients(verifier, normed, states, nothing, torch.ones(STEPS), LOSS)
    assert not sums.any()
    assert not any(gradient.any() for gradient in gradients)
