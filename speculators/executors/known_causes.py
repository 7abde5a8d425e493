"""The usual causes of a failure by the words that a log has for them, and the way out of each.

What ends a log is seldom the cause: vLLM's server dies of its engine, whose error stands before a traceback
of the process that waited for it.  So the whole end of a log is searched, the surest words first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from speculators.executors.base import UNKNOWN, Cause

#: Bytes from the end of a log that are searched: more than a server says while it dies.
SEARCHED = 256 * 1024
#: Characters of the line that is quoted.
QUOTED = 200
#: What stands before a line of vLLM's: process, level, time and place in its code.
PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:[A-Z]+ \d\d-\d\d [\d:]+ (?:\[[^\]]*\]\s*)+)?")


class Known(NamedTuple):
    """``words``: what the failing library says, in vLLM 0.32 unless noted."""

    words: re.Pattern[str]
    cause: str
    hint: str


KNOWN = (
    Known(  # v1/worker/utils.py
        re.compile(r"Free memory on device .* on startup"),
        "the GPU has less free memory than the engine may take",
        "end what else uses the GPU (nvidia-smi shows it), or lower engine.args.gpu_memory_utilization",
    ),
    Known(  # v1/core/kv_cache_utils.py
        re.compile(r"larger than the available KV cache"),
        "a request of full length does not fit the KV cache",
        "lower engine.args.max_model_len, or raise engine.args.gpu_memory_utilization (kv_cache_memory_bytes "
        "where that is set)",
    ),
    Known(  # v1/core/kv_cache_utils.py
        re.compile(r"No available memory for the cache blocks"),
        "no memory is left for the KV cache beside the weights",
        "raise engine.args.gpu_memory_utilization, spread the model over more GPUs with "
        "engine.args.tensor_parallel_size, or set engine.args.kv_cache_memory_bytes on a CPU",
    ),
    Known(  # torch
        re.compile(r"CUDA out of memory|torch\.OutOfMemoryError"),
        "GPU memory ran out",
        "in training: lower training.sequence_length or turn gradient_checkpointing on; in the engine: lower "
        "engine.args.gpu_memory_utilization or max_num_seqs",
    ),
    Known(  # torch
        re.compile(r"NVIDIA driver on your system is too old|driver version is insufficient"),
        "the NVIDIA driver is older than this CUDA",
        "update the driver, or take images of an older CUDA (--image); 'speculators doctor' compares the two",
    ),
    Known(  # transformers_utils/config.py
        re.compile(r"`trust_remote_code=True` in LLM|contains custom code which must be executed"),
        "the verifier's repository wants to run code of its own",
        "read that code, and set verifier.trust_remote_code to true if you trust it",
    ),
    Known(
        re.compile(r"\[Errno 98\]|error while attempting to bind on address"),
        "another process took the port meanwhile",
        "run it again: a free port is chosen anew",
    ),
)


def cause_in(text: str) -> Cause:
    """The known cause that ``text`` speaks of, with the line that does; ``UNKNOWN`` where it is none."""
    for known in KNOWN:
        if found := known.words.search(text):
            start, end = text.rfind("\n", 0, found.start()) + 1, text.find("\n", found.end())
            line = PREFIX.sub("", text[start : end if end >= 0 else len(text)].strip())
            quoted = line if len(line) <= QUOTED else f"{line[:QUOTED]}..."
            return Cause(f"{known.cause}: {quoted}", known.hint)
    return UNKNOWN


def cause_in_log(log: Path) -> Cause:
    """The known cause that the end of a log file speaks of."""
    if not log.is_file():
        return UNKNOWN
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - SEARCHED))
        return cause_in(file.read().decode("utf-8", errors="replace"))
