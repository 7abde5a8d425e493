"""A vLLM plugin that makes a speculating server slower by a known share, and nothing else.

After every step of the engine it waits for so long that the server makes ``SPECULATORS_SLOWER`` (as 0.1)
fewer steps a second: what of a period was work stays as it was.  ``real_verdicts.py`` installs it beside a
server to see that the gate finds the loss, and blames the engine for it.  A plain server is left alone:
what slows both arms alike is no loss of speedup.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

SHARE = "SPECULATORS_SLOWER"
#: A longer period is no step but a server without work.
IDLE_SECONDS = 1.0
#: The two ways in which vLLM's engine core makes a step (``v1/engine/core.py``).
STEPS = ("step", "step_with_batch_queue")


def register() -> None:
    """The entry point; vLLM may call it several times in one process."""
    from vllm.v1.engine.core import EngineCore

    for name in STEPS:
        step = getattr(EngineCore, name)
        if not hasattr(step, "__wrapped__"):
            setattr(EngineCore, name, slowed(step, float(os.environ[SHARE])))


def slowed(step: Callable[..., Any], share: float) -> Callable[..., Any]:
    """``step`` with a wait behind it: ``share`` of the period since the last one ended."""
    ended = time.monotonic()

    @functools.wraps(step)
    def slow(core: Any) -> Any:
        nonlocal ended
        result = step(core)
        if core.vllm_config.speculative_config is not None:
            period = time.monotonic() - ended
            if period < IDLE_SECONDS:
                time.sleep(period * share / (1 - share))
        ended = time.monotonic()
        return result

    return slow
