"""Drawn answers under speculation on vLLM's CPU build, which 0.32 draws from memory that nobody wrote.

For each drafted token the rejection sampler needs its request's temperature, top-k and top-p.  The CPU
build's kernel for that writes int64; it is handed an int64 copy of the float32 result, and the copy is thrown
away (``vllm/utils/cpu_triton_utils.py``, ``_expand_kernel_impl``).  A server that is told
``--worker-extension-cls`` with the class below imports this module before its first step, and from then on
has an expansion in plain torch.
"""

from __future__ import annotations

import torch
from vllm.v1.sample import rejection_sampler


class MendedSampling:
    """What a server is told to load: importing its module is all that it does."""


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: float = 0,
    replace_to: float = 0,
) -> torch.Tensor:
    """The value of each request for each of its drafted tokens; the engine's own function, names and all.

    ``x``: [requests]; ``cu_num_tokens``: [requests], the drafted tokens up to and with each request, of which
    there are ``num_tokens``.  ``replace_from`` becomes ``replace_to``: greedy requests have a temperature of
    0, by which nothing can be divided.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))  # [requests]
    values = x.masked_fill(x == replace_from, replace_to)
    return values.repeat_interleave(counts, output_size=num_tokens)  # [tokens]


if not hasattr(rejection_sampler, "expand_batch_to_tokens"):  # a name that nobody reads would mend nothing
    raise ImportError("this vLLM samples otherwise: speculators.serving.cpu_sampling does not know how")
rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
