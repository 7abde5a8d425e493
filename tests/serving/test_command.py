from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.errors import RecipeError
from speculators.serving.command import (
    CONNECTED,
    Speculation,
    server_arguments,
    server_argv,
    server_environment,
)
from tests.needs import needing

ENGINE = {"max_model_len": 512, "dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": "1G"}
DRAFT = Speculation(Path("/draft"), "eagle3", 3)


def test_the_arms_differ_only_by_what_exists_only_with_speculation() -> None:
    plain = server_arguments(8000, ENGINE, None)
    draft = server_arguments(8000, ENGINE, DRAFT)
    assert draft[: len(plain)] == plain
    assert draft[len(plain) :: 2] == ["--speculative-config", "--per-request-spec-decode-metrics"]


def test_servers_listen_on_loopback_without_prefix_cache_and_with_a_fixed_name() -> None:
    words = " ".join(server_arguments(8000, ENGINE, None))
    for expected in (
        "--host 127.0.0.1 --port 8000",
        "--served-model-name verifier",
        "--seed 0 --no-enable-prefix-caching --generation-config vllm",
        "--max-model-len 512 --dtype float32 --enforce-eager --kv-cache-memory-bytes 1G",
    ):
        assert expected in words
    assert "trust" not in words
    assert "--trust-remote-code" in server_arguments(8000, ENGINE, None, trust_remote_code=True)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("eagle3", {"method": "eagle3"}),
        ("peagle", {"method": "eagle3", "parallel_drafting": True}),
        ("dflash", {"method": "dflash"}),
        ("eagle", {"method": "eagle"}),
    ],
)
def test_speculative_config_names_the_method_that_vllm_knows(
    algorithm: str, expected: dict[str, object]
) -> None:
    arguments = server_arguments(1, {}, Speculation(Path("/draft"), algorithm, 5))
    config = json.loads(arguments[arguments.index("--speculative-config") + 1])
    assert config == {**expected, "model": "/draft", "num_speculative_tokens": 5}


def test_suffix_recites_no_answer_of_an_earlier_request() -> None:
    """Warm-up and every load ask the same prompts."""
    arguments = server_arguments(1, {}, Speculation(None, "suffix", 5))
    config = json.loads(arguments[arguments.index("--speculative-config") + 1])
    assert config == {
        "method": "suffix",
        "num_speculative_tokens": 5,
        "suffix_decoding_max_cached_requests": 0,
    }


def test_an_algorithm_that_cannot_be_served_is_named() -> None:
    with pytest.raises(RecipeError, match="medusa") as caught:
        server_arguments(1, {}, Speculation(Path("/draft"), "medusa", 3))
    assert "eagle3" in caught.value.hint


def test_threads_that_are_not_bound_need_no_worker_process() -> None:
    bind, separate = "VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING"
    assert server_environment({bind: "nobind"}) == {**CONNECTED, bind: "nobind", separate: "0"}
    assert server_environment({bind: "nobind", separate: "1"})[separate] == "1"
    assert server_environment({bind: "0-1"}) == {**CONNECTED, bind: "0-1"}
    assert server_environment({}) == CONNECTED


@pytest.mark.integration
@needing("vllm")
def test_the_engine_keeps_a_connection_for_longer_than_the_load_generator_does() -> None:
    code = "import vllm.envs as known; print(known.VLLM_HTTP_TIMEOUT_KEEP_ALIVE)"
    for given, seconds in (({}, 120), ({"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "7"}, 7)):  # engine.env wins
        environment = {**os.environ, **server_environment(given)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.split()[-1:] == [str(seconds)], done.stderr


def test_the_model_follows_the_start_command() -> None:
    assert server_argv(["vllm", "serve"], Path("/model"), ["--port", "1"]) == [
        "vllm",
        "serve",
        "/model",
        "--port",
        "1",
    ]
