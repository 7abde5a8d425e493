"""The command line of a benchmark server: the same for every arm but for what only speculation has.

A speedup means something only if nothing else differs between the arms, so there is one builder and
no other way to spell a server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.errors import RecipeError
from speculators.recipe.engine_args import to_argv
from speculators.training.architectures import FORMATS

SERVED_NAME = "verifier"
HOST = "127.0.0.1"
#: Of every arm.  Equal prompts come back in every load and round: a cached prefix would measure the cache.
SAME_FOR_ALL = ("--seed", "0", "--no-enable-prefix-caching", "--generation-config", "vllm")
#: Of the arms that are there to measure it; of two such switches vLLM's parser takes the last.
PREFIX_CACHE = ("--enable-prefix-caching",)

#: Of the arms whose answers are drawn, where the engine is the CPU build: ``cpu_sampling``.
MENDED_SAMPLING = ("--worker-extension-cls", "speculators.serving.cpu_sampling.MendedSampling")

IN_ENGINE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
#: Seconds for which an idle connection stays open.  vLLM closes it after 5, and GuideLLM (0.8.1,
#: ``backends/openai/http.py``) takes one up again until it is as old: a request that meets the end is lost.
CONNECTED = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "120"}

# What vLLM can do without a checkpoint (config/speculative.py).  The windows are those of its
# documentation's example: a longer one proposes too rarely, a single token too often.  Suffix also remembers
# the answers of earlier requests: all loads and the warm-up ask the same prompts, so it would only recite.
FREE_METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4},
    "suffix": {"method": "suffix", "suffix_decoding_max_cached_requests": 0},
}


class Speculation(NamedTuple):
    """What turns the plain arm into another one; ``draft``: None for a method that needs no checkpoint.

    ``algorithm`` is the checkpoint's own name for it, or the method's.
    """

    draft: Path | None
    algorithm: str
    tokens: int

    def config(self) -> dict[str, Any]:
        """The value of ``--speculative-config``.

        Raises:
            RecipeError: vLLM has no method for the algorithm.
        """
        if self.draft is None:
            return {**FREE_METHODS[self.algorithm], "num_speculative_tokens": self.tokens}
        if self.algorithm not in FORMATS:
            raise RecipeError(
                f"the checkpoint's algorithm is {self.algorithm!r}: vLLM serves no draft folder of that kind",
                hint=f"vLLM serves {', '.join(FORMATS)}",
                rule="unserved-algorithm",
            )
        serve = FORMATS[self.algorithm].serve
        return {**serve, "model": str(self.draft), "num_speculative_tokens": self.tokens}


def server_arguments(
    port: int,
    engine_args: Mapping[str, Any],
    speculation: Speculation | None,
    *,
    prefix_cache: bool = False,
    mended_sampling: bool = False,
    trust_remote_code: bool = False,
) -> list[str]:
    """Arguments after the start command and the model."""
    arguments = ["--host", HOST, "--port", str(port), "--served-model-name", SERVED_NAME]
    arguments += [*SAME_FOR_ALL, *(PREFIX_CACHE if prefix_cache else ())]
    arguments += MENDED_SAMPLING if mended_sampling else ()
    arguments += ["--trust-remote-code"] if trust_remote_code else []
    arguments += to_argv(dict(engine_args))
    if speculation is not None:
        arguments += ["--speculative-config", json.dumps(speculation.config())]
        # Counts per request cost nothing and let looping rows be left out; vLLM refuses the flag
        # without speculation.
        arguments += ["--per-request-spec-decode-metrics", "summary"]
    return arguments


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` of an engine, for a server: it keeps connections, on CPU without a worker process.

    vLLM's CPU platform forks a worker only to bind its threads (``platforms/cpu.py``); without
    binding it does nothing but import everything once more, a third of the time until ready.
    """
    unbound = environment.get("VLLM_CPU_OMP_THREADS_BIND") == "nobind"
    return {**CONNECTED, **(IN_ENGINE_PROCESS if unbound else {}), **environment}


def server_argv(start: Sequence[str], model: Path, arguments: Sequence[str]) -> list[str]:
    """The whole command: ``start`` (see ``launcher``) ends where the model's name goes."""
    return [*start, str(model), *arguments]
