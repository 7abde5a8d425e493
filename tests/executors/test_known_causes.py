from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from speculators.errors import StageError
from speculators.executors.base import UNKNOWN, Endpoint
from speculators.executors.child import require_servers
from speculators.executors.known_causes import QUOTED, SEARCHED, cause_in, cause_in_log
from tests.needs import leave_out

#: How vLLM's server ends when its engine did: the cause, a traceback, and then that of who waited for it.
ENGINE = "(EngineCore pid=812) ERROR 11-26 07:12:01 [v1/engine/core.py:1135] "
KV_CACHE = (
    "ValueError: To serve at least one request with the model's max seq len (40960), (21.3 GiB KV cache is "
    "needed, which is larger than the available KV cache memory (9.8 GiB). Try decreasing `max_model_len`."
)
AFTER = "Traceback (most recent call last):\n" + "  File x.py, line 1, in wait\n" * 40
AFTER += "RuntimeError: Engine core initialization failed. See root cause above.\n"
LOG = f"starting\n{ENGINE}{KV_CACHE}\n{AFTER}"


@pytest.mark.parametrize(
    ("said", "cause", "hint"),
    [
        (KV_CACHE, "a request of full length does not fit the KV cache", "lower engine.args.max_model_len"),
        (
            "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU "
            "memory utilization (0.9, 71.2 GiB).",
            "the GPU has less free memory than the engine may take",
            "end what else uses the GPU",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "no memory is left for the KV cache beside the weights",
            "raise engine.args.gpu_memory_utilization",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.4 GiB. GPU 2 has a total "
            "capacity of 79.1 GiB",
            "GPU memory ran out: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.4 GiB. GPU",
            "training.sequence_length",
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).",
            "the NVIDIA driver is older than this CUDA",
            "update the driver",
        ),
        ("OSError: [Errno 98] Address already in use", "another process took the port", "run it again"),
    ],
)
def test_a_usual_failure_is_told_with_its_line_and_its_way_out(said: str, cause: str, hint: str) -> None:
    found = cause_in(f"before\n{ENGINE}{said}\nafter\n")
    assert found.text.startswith(cause)
    assert said[:60] in found.text
    assert "EngineCore" not in found.text
    assert "after" not in found.text
    assert hint in found.hint


def test_a_long_line_is_quoted_in_part() -> None:
    text = cause_in("CUDA out of memory." + " x" * QUOTED).text
    assert text.endswith("...")
    assert len(text) < 2 * QUOTED


def test_what_nobody_knows_is_not_explained(tmp_path: Path) -> None:
    assert cause_in("ValueError: something else") == UNKNOWN
    assert cause_in_log(tmp_path / "none.txt") == UNKNOWN


def test_the_end_of_a_long_log_is_searched(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"\xff" + b"x" * SEARCHED + LOG.encode())
    assert cause_in_log(log).text.startswith("a request of full length does not fit the KV cache: ValueError")
    log.write_bytes(LOG.encode() + b"x" * SEARCHED)
    assert cause_in_log(log) == UNKNOWN


def test_a_server_that_died_of_its_engine_says_what_the_engine_said(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(LOG)
    server = Endpoint("round 1 plain", "http://127.0.0.1:1", "serve", log, lambda: 1)
    with pytest.raises(StageError, match="does not fit the KV cache: ValueError: To serve") as raised:
        require_servers("round 1 plain client", [server])
    assert raised.value.hint.startswith("lower engine.args.max_model_len")
    assert "See root cause above" in raised.value.message


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("v1/worker/utils.py", "Free memory on device "),
        ("v1/core/kv_cache_utils.py", "larger than the available KV cache "),
        ("v1/core/kv_cache_utils.py", "No available memory for the cache blocks"),
        ("transformers_utils/config.py", "`trust_remote_code=True` in LLM"),
    ],
)
def test_the_words_are_those_of_the_installed_vllm(module: str, words: str) -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or not found.origin:
        leave_out("vLLM is not installed")
    text = (Path(str(found.origin)).parent / module).read_text(encoding="utf-8")
    assert words in text
    assert cause_in(f"{words} cuda:0 on startup") != UNKNOWN
