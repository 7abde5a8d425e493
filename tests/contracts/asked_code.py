"""Questions about vLLM's code itself: names, signatures, fields, and code that ours repeats."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from speculators.datagen import capture as our_capture
from speculators.executors.request import INSIDE, SCRATCH
from speculators.serving.command import IN_ENGINE_PROCESS
from speculators.serving.environment import CPU_THREADS, OFFLINE
from speculators.serving.launcher import MODULE
from tests.contracts import looking
from tests.contracts.answers import Answer
from tests.contracts.stand_ins import recipes

CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector"
STOCK = f"{CONNECTOR}:ExampleHiddenStatesConnector"
SAMPLING = ("temperature", "top_p", "max_tokens", "detokenize", "seed", "stop", "stop_token_ids")

#: name -> how we call it: positional arguments, keyword arguments.
CALLS: dict[str, tuple[int, tuple[str, ...]]] = {
    "vllm.entrypoints.llm:LLM.generate": (2, ("use_tqdm",)),
    "vllm.entrypoints.llm:LLM.enqueue_chat": (2, ("use_tqdm", "tools", "chat_template_kwargs")),
    "vllm.entrypoints.llm:LLM.wait_for_completion": (0, ("use_tqdm",)),
    "vllm.entrypoints.llm:LLM.get_tokenizer": (0, ()),
    "vllm.sampling_params:SamplingParams": (0, SAMPLING),
    "vllm.v1.engine.llm_engine:LLMEngine.step": (0, ()),
    "vllm.v1.engine.core_client:InprocClient.shutdown": (0, ()),
    "vllm.v1.engine.core_client:SyncMPClient.shutdown": (0, ()),
    "vllm.v1.core.sched.scheduler:Scheduler.has_requests": (0, ()),
    "vllm.utils.argparse_utils:human_readable_int_or_auto": (1, ()),
    f"{CONNECTOR}:extract_from_kv_cache": (3, ()),
    f"{STOCK}._submit_async_write": (1, ()),
    f"{STOCK}._write_tensors": (4, ()),
    f"{STOCK}._on_write_done": (2, ()),
}
ATTRIBUTES = {
    "vllm.entrypoints.llm:LLM": ("llm_engine", "model_config"),
    "vllm.v1.engine.llm_engine:LLMEngine": ("engine_core",),
    "vllm.v1.engine.core_client:InprocClient": ("engine_core",),
    "vllm.v1.engine.core:EngineCore": ("scheduler",),
    "vllm.config.model:ModelConfig": ("max_model_len",),
    "vllm.outputs:RequestOutput": ("request_id", "prompt_token_ids", "outputs", "kv_transfer_params"),
    "vllm.outputs:CompletionOutput": ("text", "token_ids", "finish_reason"),
}
CONNECTOR_ATTRIBUTES = {
    STOCK: (
        "_block_size",
        "_executor",
        "_is_tp_rank_zero",
        "_kv_cache",
        "_lock_fds",
        "_req_copy_events",
        "_req_futures",
    ),
    f"{CONNECTOR}:PendingSave": ("req_id", "filename", "token_ids", "block_ids"),
}
#: Texts that the connector writes and we read.
CONNECTOR_TEXTS = (
    "hidden_states",
    "token_ids",
    "hidden_states_path",
    ".lock",
    ".safetensors",
    "shared_storage_path",
)
#: Fields of the classes of vLLM's API that our client, GuideLLM and its report's reader send and read.
API = {
    "ChatCompletionRequest": (
        "model",
        "messages",
        "max_completion_tokens",
        "temperature",
        "seed",
        "stream",
        "stream_options",
        "return_token_ids",
        "chat_template_kwargs",
    ),
    "StreamOptions": ("include_usage", "continuous_usage_stats"),
    "ChatCompletionResponse": ("choices", "usage", "prompt_token_ids"),
    "ChatCompletionResponseChoice": ("message", "finish_reason", "token_ids"),
    "ChatMessage": ("content",),
    "ChatCompletionStreamResponse": ("choices", "usage", "metrics"),
    "ChatCompletionResponseStreamChoice": ("delta", "finish_reason"),
    "PerRequestMetrics": ("speculative_decoding",),
    "SpeculativeDecodingMetrics": (
        "acceptance_histogram",
        "num_spec_steps",
        "num_draft_tokens",
        "num_accepted_draft_tokens",
    ),
    "TokenizeCompletionRequest": ("model", "prompt", "add_special_tokens"),
    "TokenizeResponse": ("tokens",),
    "ModelList": ("data",),
    "ModelCard": ("id",),
}
#: Variables whose defaults are folders that vLLM writes to.
FOLDERS = ("VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "VLLM_ASSETS_CACHE")
ROUTES = ("/health", "/metrics", "/v1/models", "/v1/chat/completions", "/tokenize")
EAGLE3 = "vllm.model_executor.models.llama_eagle3"
CONFIG = "vllm.transformers_utils.configs.speculators"
#: Code that ours repeats or whose inside we depend on.
IMITATED = (
    f"{EAGLE3}:LlamaDecoderLayer",
    f"{EAGLE3}:LlamaModel",
    f"{EAGLE3}:Eagle3LlamaForCausalLM.combine_hidden_states",
    f"{EAGLE3}:Eagle3LlamaForCausalLM.compute_logits",
    f"{EAGLE3}:Eagle3LlamaForCausalLM.load_weights",
    f"{CONFIG}.algos:update_eagle3",
    f"{CONFIG}.base:SpeculatorsConfig",
    "vllm.model_executor.models.interfaces:EagleModelMixin._maybe_add_hidden_state",
    "vllm.v1.spec_decode.llm_base_proposer:SpecDecodeBaseProposer.set_inputs_first_pass",
    "vllm.v1.spec_decode.metrics:SpecDecodingProm.observe",
    "vllm.v1.spec_decode.metrics:SpecDecodingStats",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._input_fits_in_drafter",
)


def start_commands() -> Answer:
    """The server as a module, and as the command that the wheel installs."""
    facts: dict[str, Any] = {"module": MODULE}
    missing = []
    path = importlib.util.find_spec(MODULE)
    if path is None or not path.origin:
        missing.append(f"{MODULE} is gone")
    else:
        with open(path.origin, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        program = [n for n in tree.body if isinstance(n, ast.If) and "__name__" in ast.unparse(n.test)]
        if not program:
            missing.append(f"{MODULE} is no program any more")
        facts["module says it is deprecated"] = any("Deprecation" in ast.unparse(node) for node in program)
    scripts = importlib.metadata.entry_points(group="console_scripts")
    facts["command"] = {script.name: script.value for script in scripts if script.name == "vllm"}
    if not facts["command"]:
        missing.append("no 'vllm' command is installed")
    return Answer(facts, tuple(missing))


def calls() -> Answer:
    """Whether each function takes what we pass, and its whole signature."""
    facts, missing = {}, []
    for name, (positional, keywords) in CALLS.items():
        try:
            function = looking.resolve(name)
        except looking.GoneError as gone:
            missing.append(str(gone))
            continue
        facts[_short(name)] = looking.signature(function)
        if refusal := looking.takes(function, positional, keywords):
            missing.append(f"{_short(name)}: {refusal}")
    return Answer(facts, tuple(missing))


def attributes() -> Answer:
    """Attributes of vLLM's objects that we read."""
    return _attributes(ATTRIBUTES)


def connector() -> Answer:
    """The stock connector: reachable by name, and as our subclass of it expects."""
    facts, missing = _attributes(CONNECTOR_ATTRIBUTES)
    try:
        stock = looking.resolve(STOCK)
        registered = looking.resolve("vllm.distributed.kv_transfer.kv_connector.factory:KVConnectorFactory")
        registered.get_connector_class_by_name(our_capture.STOCK_CONNECTOR["kv_connector"])
        ours = our_capture.CPU_CONNECTOR
        looking.resolve(f"{ours['kv_connector_module_path']}:{ours['kv_connector']}")
    except (looking.GoneError, ImportError, AttributeError, ValueError) as error:
        return Answer(facts, (*missing, str(error)))
    texts = looking.literals(stock)
    missing += tuple(
        f"the connector no longer says {text!r}" for text in CONNECTOR_TEXTS if text not in texts
    )
    facts["constructor"] = looking.signature(stock.__init__)
    facts["code"] = {
        name: looking.code_digest(f"{STOCK}.{name}")
        for name in ("_submit_async_write", "_write_tensors", "request_finished", "get_finished")
    }
    return Answer(facts, missing)


def environment() -> Answer:
    """Variables that we or the shipped recipes set and vLLM reads, and where they make it write."""
    known = importlib.import_module("vllm.envs").environment_variables
    ours = {**OFFLINE, **CPU_THREADS, **IN_ENGINE_PROCESS, **INSIDE}
    for recipe in recipes():
        ours |= recipe.data["engine"].get("env") or {}
    wanted = sorted(name for name in ours if name.startswith("VLLM_"))
    missing = [f"vLLM has no variable {name}" for name in (*wanted, *FOLDERS) if name not in known]
    folders = {name: _in_a_container(known[name]) for name in FOLDERS if name in known}
    missing += [
        f"{name} is {place} in a container, where nothing but {SCRATCH} can be written to"
        for name, place in folders.items()
        if Path(SCRATCH) not in place.parents
    ]
    facts = {
        "variables": [name for name in wanted if name in known],
        "folders in scratch": {
            name: place.relative_to(SCRATCH).as_posix()
            for name, place in folders.items()
            if Path(SCRATCH) in place.parents
        },
    }
    return Answer(facts, tuple(missing))


def _in_a_container(read: Callable[[], str]) -> Path:
    """What vLLM reads with nothing set but what containers of ours set."""
    with patch.dict(os.environ, INSIDE, clear=True):
        return Path(read())


def api() -> Answer:
    """Fields of the HTTP API, wherever their classes are, and its routes."""
    facts: dict[str, Any] = {}
    missing = []
    for name, fields in API.items():
        places = [place for place in looking.definitions(name) if ".entrypoints." in place]
        if not places:
            missing.append(f"no class {name} in vllm.entrypoints any more")
            continue
        # Classes of one name in several APIs: ours is that of the chat endpoint.
        place = min(places, key=lambda module: (".openai." not in module, "responses" in module, module))
        model = getattr(importlib.import_module(place), name)
        there = [field for field in fields if field in model.model_fields]
        facts[name] = there
        missing += [f"{name} has no field {field!r} any more" for field in fields if field not in there]
    routes = _routes()
    missing += [f"no route {route} any more" for route in ROUTES if route not in routes]
    return Answer({"fields": facts, "routes": [route for route in ROUTES if route in routes]}, tuple(missing))


def imitated() -> Answer:
    """Digests of code: a difference says what to read before the new version is supported."""
    facts, missing = {}, []
    for name in IMITATED:
        try:
            facts[_short(name)] = looking.code_digest(name)
        except looking.GoneError as gone:
            missing.append(str(gone))
    return Answer(facts, tuple(missing))


def _attributes(table: dict[str, tuple[str, ...]]) -> Answer:
    facts, missing = {}, []
    for name, wanted in table.items():
        try:
            there = looking.names_of(looking.resolve(name))
        except looking.GoneError as gone:
            missing.append(str(gone))
            continue
        facts[_short(name)] = [attribute for attribute in wanted if attribute in there]
        missing += [f"{_short(name)} has no {attribute}" for attribute in wanted if attribute not in there]
    return Answer(facts, tuple(missing))


def _routes() -> set[str]:
    """The paths that vLLM's server code gives to a router."""
    found = set()
    for path in looking.sources("entrypoints"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in ("get", "post", "Mount"):
                    found.add(node.args[0].value)
    return found


def _short(name: str) -> str:
    """The name without its module."""
    return name.partition(":")[2]
