"""How long a conversation may be, with or without an engine that could be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.serving.offline import read_size

__all__ = ["CAPTURE_POSITIONS", "configured_context"]

#: Positions of the context that no conversation may use: capture itself generates one token, and the
#: engine skips storing states in steps that come within one position of the limit
#: (``_input_fits_in_drafter`` in vllm/v1/worker/gpu_model_runner.py).
CAPTURE_POSITIONS = 2


def configured_context(engine_args: Mapping[str, Any], longest: int) -> int:
    """The context that an engine with these arguments would have; ``longest`` is the verifier's own.

    vLLM takes the verifier's own where ``max_model_len`` is missing, null, ``auto`` or not positive.

    Raises:
        RecipeError: ``max_model_len`` is a text that is no size.
    """
    value = engine_args.get("max_model_len")
    size = read_size("max_model_len", value) if isinstance(value, str) else value
    return size if size and size > 0 else longest
