"""Output head and loss in one pass over chunks of tokens, gradients included.

Logits are the largest tensors of a training step: 8192 rows x 152k tokens x K steps are gigabytes,
and autograd would keep them until the backward pass.  But what the backward pass will multiply them
by is known beforehand (each row's weight), so the gradient with respect to the head's *input* can be
computed in the forward pass, chunk by chunk, and the logits thrown away: what is kept is [N, H] a
step.  The trick is known for language models' cross-entropy from Liger (arXiv 2410.10989).

The chunks go by taught token, not by row: the verifier's opinion on a token judges its guesses of all
K steps, so its logits are computed once; and, as the draft usually speaks through the verifier's own
head, together with those of the K guesses in one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from speculators.training.asked import Taught
from speculators.training.losses import Compared, WeightedSum
from speculators.training.step_cost import GPU_CHUNK_BYTES
from speculators.training.verifier import FrozenVerifier

#: Bytes of logits at once, in float32 (K + 1 rows a token), by the type of device.  The logits pass
#: through a CPU's cache several times; a GPU needs thousands of rows before a product fills it.
CHUNK_BYTES = {"cpu": 2**23}
# Any other device has ``GPU_CHUNK_BYTES``, which is part of what a step costs on paper.


def taught_gradients(
    verifier: FrozenVerifier,
    normed: Sequence[torch.Tensor],
    states: torch.Tensor,
    taught: Taught,
    weights: torch.Tensor,
    loss: WeightedSum,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Divergences of all guesses, and what they ask of the states that were guessed from.

    Args:
        normed: the draft's normed states, K x [N, H]; read as constants.
        states: the verifier's last states [S, H].
        weights: [K], what one row's divergence counts at each step.

    Returns the sums of divergences [K], unweighted, and the gradients of the weighted sum with
    respect to ``normed``, K x [N, H].
    """
    steps, head = len(normed), verifier.spoken_head  # [Vd, H]
    sums = torch.zeros(steps, dtype=torch.promote_types(head.dtype, torch.float32), device=head.device)
    gradients = [torch.zeros_like(one) for one in normed]
    counts = taught.counted.to(sums.dtype) * weights.to(sums.dtype)[:, None]  # [K, M]
    with torch.no_grad():
        for chunk in chunks(verifier, taught):
            places = taught.places[:, chunk]  # [K, C]
            guesses = torch.cat([one[place] for one, place in zip(normed, places)]).to(head.dtype)  # [K C, H]
            rows = compared(verifier, states[taught.opinions[chunk]], guesses)
            values, by_logits = loss.with_gradient(rows)  # [K, C], [K, C, Vd]
            sums += (values * taught.counted[:, chunk]).sum(dim=1)
            # A row's weight is a factor of its gradient: applied where the row is H wide, not Vd.
            by_guess = by_logits.flatten(0, 1).to(head.dtype) @ head  # [K C, H]
            by_guess = by_guess * counts[:, chunk].reshape(-1, 1)
            del rows, by_logits  # or the next chunk's would be made beside this one's
            for gradient, place, part in zip(gradients, places, by_guess.chunk(steps)):
                gradient.index_add_(0, place, part.to(gradient.dtype))
    return sums, gradients


def greedy_tokens(
    verifier: FrozenVerifier, normed: Sequence[torch.Tensor], taught: Taught, size: int
) -> torch.Tensor:
    """The draft's greedy tokens at each of ``size`` rows and step, [S, K] int64; -1 where none is taught."""
    proposed = taught.opinions.new_full((size, len(normed)), -1)
    for step, guess in enumerate(verifier.draft_ids[greedy_places(verifier, normed, taught)]):
        rows = taught.opinions - 1 - step  # [M], may lie before the document or the sequence
        counted = taught.counted[step] > 0
        proposed[rows[counted], step] = guess[counted]
    return proposed


def compared(verifier: FrozenVerifier, last: torch.Tensor, guesses: torch.Tensor) -> Compared:
    """The verifier's distributions after its last states [C, H], and the drafts' of [K C, H] normed ones."""
    opinions = verifier.normed(last).to(guesses.dtype)  # [C, H]
    if verifier.own_head is None:
        logits = torch.cat([opinions, guesses]) @ verifier.draft_head.T  # [(1 + K) C, Vd]
        opinion, guess = logits.split([len(opinions), len(guesses)])
    else:
        opinion, guess = opinions @ verifier.draft_head.T, guesses @ verifier.own_head.T
    return Compared.of(guess.unflatten(0, (-1, len(opinions))), verifier.ends.shaped(opinion))


def greedy_places(verifier: FrozenVerifier, normed: Sequence[torch.Tensor], taught: Taught) -> torch.Tensor:
    """The draft's greedy guess of each taught token at each step, [K, M], as places of its vocabulary."""
    best, head = torch.zeros_like(taught.places), verifier.spoken_head  # [K, M], [Vd, H]
    for chunk in chunks(verifier, taught):
        for step, (one, place) in enumerate(zip(normed, taught.places[:, chunk])):
            best[step, chunk] = (one[place].to(head.dtype) @ head.T).argmax(dim=-1)
    return best


def chunks(verifier: FrozenVerifier, taught: Taught) -> Iterator[slice]:
    """Slices of the M taught tokens whose logits, of verifier and all K steps, fit the device's chunk."""
    (steps, total), head = taught.places.shape, verifier.draft_head
    room = CHUNK_BYTES.get(head.device.type, GPU_CHUNK_BYTES)
    size = max(1, room // (4 * len(head) * (steps + 1)))
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
