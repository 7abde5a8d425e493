"""Rules between the engine's settings and what generation and benchmark ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.view import View

#: vLLM arguments that the product sets itself, and the recipe's own place for them.
OWNED_ARGS = {
    "model": "it comes from 'verifier'",
    "tokenizer": "it comes from 'verifier'",
    "revision": "it comes from 'verifier.revision'",
    "trust_remote_code": "it comes from 'verifier.trust_remote_code'",
    "speculative_config": "it comes from 'algorithm' or 'draft', and only the draft arm has it",
    "kv_transfer_config": "the hidden-state capture sets it",
    "chat_template": "the verifier's own is used everywhere: what is served must be what was trained on",
    "served_model_name": "the benchmark sets it",
    "host": "servers listen on loopback only",
    "port": "the benchmark takes a free one",
    "enable_prefix_caching": "it is off in every arm: equal prompts would measure the cache",
    "generation_config": "requests say themselves how to sample",
    "hf_token": "recipes are shared: export HF_TOKEN in your shell instead",
    "api_key": "servers listen on loopback only, and recipes are shared",
    "seed": "it comes from 'datagen.prompts.seed' and 'training.seed'",
}
#: vLLM arguments that size, place or schedule work, and can do no more than that.
ORDINARY_ARGS = frozenset(
    {
        "async_scheduling",
        "block_size",
        "cpu_offload_gb",
        "data_parallel_size",
        "disable_custom_all_reduce",
        "disable_log_stats",
        "dtype",
        "enable_chunked_prefill",
        "enable_expert_parallel",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_dtype",
        "kv_cache_memory_bytes",
        "limit_mm_per_prompt",
        "long_prefill_token_threshold",
        "max_long_partial_prefills",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_partial_prefills",
        "max_num_seqs",
        "max_seq_len_to_capture",
        "num_gpu_blocks_override",
        "pipeline_parallel_size",
        "quantization",
        "seed",
        "swap_space",
        "tensor_parallel_size",
    }
)
SECRET_WORDS = {
    "TOKEN",
    "TOKENS",
    "KEY",
    "KEYS",
    "APIKEY",
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "SECRETS",
    "CREDENTIALS",
}
#: Tokens: one of a prompt and one of its answer.
SMALLEST_CONTEXT = 2


def owned_arguments(view: View) -> Iterator[Diagnostic]:
    for name in view.get("engine.args"):
        if reason := OWNED_ARGS.get(name):
            message = f"engine.args cannot set '{name}'"
            yield view.problem("error", "owned-argument", f"engine.args.{name}", message, reason, key=True)


def no_secrets(view: View) -> Iterator[Diagnostic]:
    for name in view.get("engine.env"):
        if SECRET_WORDS & set(re.split(r"_+", name.upper())):
            message = f"'{name}' looks like a secret, and recipes are shared"
            hint = f"remove it here and export {name} in your shell: the engine inherits it"
            yield view.problem("error", "secret", f"engine.env.{name}", message, hint)


def generation_fits_context(view: View) -> Iterator[Diagnostic]:
    if view.get("datagen.prepared") is None:
        yield from _fits_context(view, "datagen.max_tokens")


def benchmark_fits_context(view: View) -> Iterator[Diagnostic]:
    yield from _fits_context(view, "benchmark.max_tokens")


def _fits_context(view: View, name: str) -> Iterator[Diagnostic]:
    tokens, context = view.get(name), view.get("engine.args.max_model_len")
    if isinstance(context, int) and tokens >= context >= SMALLEST_CONTEXT:
        message = f"{name} is {tokens}, but prompt and response share a context of {context}"
        hint = "lower it, or raise engine.args.max_model_len"
        yield view.problem("error", "context-length", name, message, hint)


def context_has_room(view: View) -> Iterator[Diagnostic]:
    context = view.get("engine.args.max_model_len")
    if isinstance(context, int) and context < SMALLEST_CONTEXT:
        message = f"max_model_len is {context}, but prompt and response share it"
        hint = "give what the longest prompt and answer need together, or leave it out for the verifier's own"
        yield view.problem("error", "context-length", "engine.args.max_model_len", message, hint)


def context_exists(view: View) -> Iterator[Diagnostic]:
    assert view.facts
    context, limit = view.get("engine.args.max_model_len"), view.facts.max_position_embeddings
    # A changed model configuration may well stretch the context: then vLLM is the judge.
    if isinstance(context, int) and context > limit and not view.has("engine.args.hf_overrides"):
        message = f"max_model_len {context} is longer than the verifier's context of {limit}"
        hint, notes = f"lower it to at most {limit}", (f"from {view.facts.source}",)
        yield view.problem("error", "context-length", "engine.args.max_model_len", message, hint, notes=notes)


def load_fits_engine(view: View) -> Iterator[Diagnostic]:
    loads, slots = view.get("benchmark.concurrency"), view.get("engine.args.max_num_seqs")
    number, most = max(enumerate(loads), key=lambda pair: pair[1])
    if isinstance(slots, int) and most > slots:
        message = f"concurrency {most} exceeds engine.args.max_num_seqs {slots}: requests would only queue"
        hint = f"lower it to at most {slots}, or raise engine.args.max_num_seqs to {most}"
        yield view.problem("error", "concurrency", "benchmark.concurrency", message, hint, item=number)


def servers_share_a_processor(view: View) -> Iterator[Diagnostic]:
    in_containers = view.get("executor") == "docker"
    if view.get("benchmark.side_by_side") and in_containers and view.get("container.gpus"):
        message = "on GPUs the servers of a round cannot run at once: each takes the memory of its device"
        hint = "leave side_by_side out"
        yield view.problem("error", "side-by-side", "benchmark.side_by_side", message, hint)


def servers_share_memory(view: View) -> Iterator[Diagnostic]:
    if view.get("benchmark.side_by_side") and view.get("engine.args.kv_cache_memory_bytes") is None:
        message = "side by side every server would take its KV cache as a share of the whole machine's memory"
        hint = "say what one takes: engine.args.kv_cache_memory_bytes: 1G, for example"
        yield view.problem("error", "side-by-side", "benchmark.side_by_side", message, hint)


def load_is_reached(view: View) -> Iterator[Diagnostic]:
    loads, requests = view.get("benchmark.concurrency"), view.get("benchmark.requests")
    number, most = max(enumerate(loads), key=lambda pair: pair[1])
    if most > requests:
        message = f"concurrency {most} is never reached with {requests} requests"
        yield view.problem(
            "warning",
            "concurrency",
            "benchmark.concurrency",
            message,
            "raise benchmark.requests to several times the load",
            item=number,
            uses=("benchmark.requests",),
        )
