"""How wide a batch vLLM's captured CUDA graphs reach; wider ones run kernel by kernel.

A speculative step has K + 1 tokens a request, so it leaves the graphs at a K + 1 times smaller load than
plain serving does (``vllm/config/vllm.py``, ``_set_cudagraph_sizes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: vLLM 0.32's own ceiling of captured sizes, in tokens; twice as many on data-centre Blackwell.
GRAPH_TOKENS = 512


def graph_reach(args: Mapping[str, Any]) -> int | None:
    """Tokens of the widest captured batch under vLLM arguments by their Python names; None without graphs.

    The sizes of ``compilation_config`` come first: they are what vLLM keeps.
    """
    if args.get("enforce_eager"):
        return None
    compilation = args.get("compilation_config")
    for place in (compilation if isinstance(compilation, Mapping) else {}, args):
        if sizes := place.get("cudagraph_capture_sizes"):
            return int(max(sizes))
        if largest := place.get("max_cudagraph_capture_size"):
            return int(largest)
    return GRAPH_TOKENS
