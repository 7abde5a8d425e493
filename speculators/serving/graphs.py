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


def graph_reach(args: Mapping[str, Any]) -> Reach | None:
    """The widest captured batch under vLLM arguments by their Python names; None without graphs.

    The sizes of ``compilation_config`` come first: they are what vLLM keeps.
    """
    given = args.get("compilation_config")
    compilation = given if isinstance(given, Mapping) else {}
    # The lowest optimisation level captures nothing unless the mode says otherwise.
    lowest = str(args.get("optimization_level")) in ("0", "O0")
    mode = str(compilation.get("cudagraph_mode") or ("NONE" if lowest else ""))
    if args.get("enforce_eager") or mode.upper() == "NONE":
        return None
    for place in (compilation, args):
        if sizes := place.get("cudagraph_capture_sizes"):
            return Reach(int(max(sizes)), int(max(sizes)))
        if largest := place.get("max_cudagraph_capture_size"):
            return Reach(int(largest), int(largest))
    return Reach(GRAPH_TOKENS, GRAPH_TOKENS_BLACKWELL)
