"""How wide a batch vLLM's captured CUDA graphs reach; wider ones run kernel by kernel.

A speculative step has K + 1 tokens a request, so it leaves the graphs at a K + 1 times smaller load than
plain serving does (``vllm/config/vllm.py``, ``_set_cudagraph_sizes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: vLLM 0.32's own ceiling of captured sizes, in tokens; the larger one on data-centre Blackwell.
GRAPH_TOKENS, GRAPH_TOKENS_BLACKWELL = 512, 1024


class Reach(NamedTuple):
    """Tokens of the widest captured batch: at least and at most, where the machine is not known."""

    least: int
    most: int

    def holds(self, tokens: int) -> bool | None:
        """Whether a batch of ``tokens`` is captured; None where that depends on the machine."""
        return True if tokens <= self.least else None if tokens <= self.most else False

    @property
    def said(self) -> str:
        blackwell = "" if self.least == self.most else f" ({self.most} on data-centre Blackwell)"
        return f"graphs reach to {self.least} tokens{blackwell}"


def without_graphs(args: Mapping[str, Any]) -> str | None:
    """The flag under which vLLM captures nothing; None where it captures."""
    if args.get("enforce_eager"):
        return "--enforce-eager"
    mode = _compilation(args).get("cudagraph_mode")
    if mode is not None:  # by its name, or by the number of vLLM's CUDAGraphMode
        return f"cudagraph_mode {mode}" if str(mode).upper() in ("NONE", "0") else None
    lowest = str(args.get("optimization_level")) in ("0", "O0")
    return "-O0 without a cudagraph_mode" if lowest else None


def graph_reach(args: Mapping[str, Any]) -> Reach | None:
    """The widest captured batch under vLLM arguments by their Python names; None without graphs.

    The sizes of ``compilation_config`` come first: they are what vLLM keeps.  Of all sizes it drops those
    that no step can have (``max_num_batched_tokens``).
    """
    if without_graphs(args) is not None:
        return None
    for place in (_compilation(args), args):
        if sizes := place.get("cudagraph_capture_sizes"):
            kept = max((int(size) for size in sizes if step_tokens(args, int(size)) == size), default=0)
            return Reach(kept, kept)
        if largest := place.get("max_cudagraph_capture_size"):
            return Reach(step_tokens(args, int(largest)), step_tokens(args, int(largest)))
    return Reach(step_tokens(args, GRAPH_TOKENS), step_tokens(args, GRAPH_TOKENS_BLACKWELL))


def step_tokens(args: Mapping[str, Any], wanted: int) -> int:
    """Tokens of a step that would have ``wanted``: the scheduler gives none more than its limit."""
    limit = args.get("max_num_batched_tokens")
    return min(wanted, limit) if type(limit) is int and limit > 0 else wanted


def _compilation(args: Mapping[str, Any]) -> Mapping[str, Any]:
    given = args.get("compilation_config")
    return given if isinstance(given, Mapping) else {}
