"""The verifier's ends that training borrows: embedding in, final norm and head out.

They are frozen, so that a draft stays small and its words stay the verifier's own; they live here
once, whatever the architecture of the draft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from speculators.checkpoint.tensors import EMBED_TOKENS, LM_HEAD
from speculators.checkpoint.verifier_weights import VerifierWeights

CHUNK_ROWS = 256  # rows of full-vocabulary logits held at once: 256 x 152k x 4 B = 156 MB


class FrozenVerifier(NamedTuple):
    """The borrowed tensors on the training device, and the arithmetic between state and token.

    A draft learns from the head's rows of its own vocabulary.  The other rows are asked for validation,
    once before the first step (``whole``); until then, and after, they rest where they were read, in
    the dtype they were stored in: 1.2 GB of a GPU for Qwen3-8B.
    """

    embedding: torch.Tensor  # [V, H], of the tokens that the draft reads
    ends: VerifierWeights
    draft_ids: torch.Tensor  # [Vd] int64, ascending
    draft_head: torch.Tensor  # [Vd, H], the head's rows of the draft vocabulary
    own_head: torch.Tensor | None = None  # [Vd, H], what the draft speaks through instead, if it does

    @classmethod
    def of(
        cls,
        weights: VerifierWeights,
        draft_ids: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> FrozenVerifier:
        every, tied = len(draft_ids) == len(weights.head), weights.head is weights.embedding
        ends = weights.to(device, dtype, head=every or tied)
        draft_head = ends.head if every else ends.head[draft_ids.to(ends.head.device)].to(device, dtype)
        return cls(ends.embedding, ends, draft_ids.to(device), draft_head)

    def whole(self) -> FrozenVerifier:
        """The same with its full head beside the embedding, for ``choices``; not to be held on to."""
        return self._replace(ends=self.ends.to(self.embedding.device, self.embedding.dtype))

    def with_ends(self, own: Mapping[str, torch.Tensor]) -> FrozenVerifier:
        """For a draft with an embedding [V, H] or a head [Vd, H] of its ``own``, by checkpoint name.

        Both stay as they are, like the verifier's; the verifier still judges through its own head.
        """
        moved = {name: tensor.to(self.embedding.device, self.embedding.dtype) for name, tensor in own.items()}
        return self._replace(
            embedding=moved.get(EMBED_TOKENS, self.embedding), own_head=moved.get(LM_HEAD, self.own_head)
        )

    @property
    def spoken_head(self) -> torch.Tensor:
        """What the draft speaks through, [Vd, H]."""
        return self.draft_head if self.own_head is None else self.own_head

    def normed(self, last: torch.Tensor) -> torch.Tensor:
        """States before the final norm [M, H] -> after it [M, H]."""
        return self.ends.normed(last)

    def draft_logits(self, last: torch.Tensor) -> torch.Tensor:
        """Verifier logits over the draft vocabulary: last-layer states [M, H] -> [M, Vd]."""
        return self.ends.shaped(self.normed(last) @ self.draft_head.T)

    def choices(self, last: torch.Tensor) -> torch.Tensor:
        """The ``whole`` verifier's greedy token over its *full* vocabulary: [M, H] -> [M] int64."""
        return torch.cat([self.ends.logits(chunk).argmax(dim=-1) for chunk in last.split(CHUNK_ROWS)])  # [M]
