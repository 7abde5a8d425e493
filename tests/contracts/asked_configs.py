"""Questions about what vLLM makes of our arguments and files: its parsers, config classes, counters."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from speculators.checkpoint.eagle3 import FORMAT
from speculators.datagen import capture as our_capture
from speculators.recipe.engine_check import PARSER_CLASS_MODULES, PARSER_MODULES, _first_import
from speculators.recipe.engine_rules import OWNED_ARGS
from speculators.serving.command import Speculation, server_arguments
from speculators.serving.metrics import SpecCounters, read_spec_counters, read_tokens
from speculators.serving.offline import SIZES, offline_engine, read_size
from speculators.training.architectures import FORMATS
from tests.contracts.answers import Answer
from tests.contracts.stand_ins import StandIn

#: What decides what is measured and how fast: shown for every configuration.
FIELDS = (
    "model_config.architectures",
    "model_config.dtype",
    "model_config.generation_config",
    "model_config.max_model_len",
    "model_config.seed",
    "model_config.served_model_name",
    "cache_config.block_size",
    "cache_config.cache_dtype",
    "cache_config.enable_prefix_caching",
    "cache_config.gpu_memory_utilization",
    "cache_config.kv_cache_memory_bytes",
    "scheduler_config.async_scheduling",
    "scheduler_config.enable_chunked_prefill",
    "scheduler_config.max_num_batched_tokens",
    "scheduler_config.max_num_scheduled_tokens",
    "scheduler_config.max_num_seqs",
    "compilation_config.mode",
    "compilation_config.cudagraph_mode",
    "compilation_config.max_cudagraph_capture_size",
    "observability_config.per_request_spec_decode_metrics",
    "use_v2_model_runner",
)
SPECULATION_FIELDS = (
    "method",
    "num_speculative_tokens",
    "parallel_drafting",
    "draft_sample_method",
    "rejection_sample_method",
    "disable_padded_drafter_batch",
    "draft_model_config.architectures",
    "draft_model_config.dtype",
    "draft_model_config.max_model_len",
    "draft_model_config.hf_config.draft_vocab_size",
    "draft_model_config.hf_config.eagle_aux_hidden_state_layer_ids",
    "draft_model_config.hf_config.target_hidden_size",
    "draft_model_config.hf_config.dflash_config",
    *(f"draft_model_config.hf_config.{flag}" for flag in FORMAT.flags),
)
CONNECTOR_FIELDS = ("kv_connector", "kv_role", "kv_connector_module_path")
GONE = "(no such field)"
PORT = 8000


class _Reached(BaseException):  # not an Exception: no handler on the way may stop it
    """The configuration with which an offline engine would have started."""

    def __init__(self, config: Any) -> None:
        self.config = config


def served(stand_in: StandIn, arm: str) -> Answer:
    """The command line of one arm through both start commands and the configuration classes."""
    speculation = stand_in.speculation if arm == "draft" else None
    line = server_arguments(PORT, stand_in.engine_args, speculation)
    model = str(stand_in.draft if arm == "folder" else stand_in.verifier)
    by_module = _module_parser().parse_args(["--model", model, *line])
    by_command = _command_parser().parse_args(["serve", model, *line])
    missing = []
    if (by_module.model, by_command.model_tag) != (model, model):
        missing.append("the model's place on the command line has changed")
    config = _config(by_module)
    facts = _facts(config)
    if arm != "plain":
        asked = stand_in.speculation.config()
        wanted = {name: asked[name] for name in SPECULATION_FIELDS if name in asked}
        drafted = {} if stand_in.free else _drafted(stand_in)
        wanted |= {f"draft_model_config.hf_config.{name}": one for name, one in drafted.items()}
        missing += _unlike(facts["speculative_config"], wanted)
    if arm == "folder" and str(config.model_config.model) != str(stand_in.verifier):
        missing.append("the verifier named in the draft's config.json is not the model that is served")
    return Answer(facts, tuple(missing))


def _drafted(stand_in: StandIn) -> dict[str, Any]:
    """What the draft's class must find in its configuration, by vLLM's names."""
    document, stored = stand_in.draft_document(), stand_in.format
    found: dict[str, Any] = {flag: document[flag] for flag in stored.flags if flag in FORMAT.flags}
    if stored.layers_key:
        found["eagle_aux_hidden_state_layer_ids"] = document[stored.layers_key]
    if stored.stored_as == "dflash":  # whose flags vLLM renames and counts otherwise
        found["dflash_config"] = {
            "mask_token_id": document["mask_token_id"],
            "target_layer_ids": [layer - 1 for layer in document[stored.layers_key or ""]],
            "sample_from_anchor": document["sample_from_anchor"],
            "causal": not document["sliding_window_non_causal"],
        }
    return found


def generation(stand_in: StandIn) -> Answer:
    """What ``vllm.LLM`` makes of the arguments of generation."""
    with _caught() as reached, offline_engine(stand_in.verifier, stand_in.engine_args, seed=0):
        pass
    return Answer(_facts(reached[0]))


def capture(stand_in: StandIn) -> Answer:
    """What ``vllm.LLM`` makes of the arguments of capture, and which connector it loads."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.platforms import current_platform

    # The unpacked CUDA wheel is asked beside the packages of an installed CPU build.
    on_cpu = mock.patch.object(our_capture, "has_cpu_engine", current_platform.is_cpu)
    scratch = stand_in.verifier.parent / "states"
    arguments = (stand_in.verifier, stand_in.layers, stand_in.engine_args, scratch)
    with on_cpu, _caught() as reached, our_capture.capture_engine(*arguments):
        pass
    config = reached[0]
    transfer = config.kv_transfer_config
    facts = _facts(config)
    facts["kv_transfer_config"] = {name: _plain(getattr(transfer, name, GONE)) for name in CONNECTOR_FIELDS}
    facts["connector"] = KVConnectorFactory.get_connector_class(transfer).__name__
    layers = "draft_model_config.hf_config.eagle_aux_hidden_state_layer_ids"
    wanted = {"method": "extract_hidden_states", "num_speculative_tokens": 1, layers: stand_in.layers}
    missing = _unlike(facts["speculative_config"], wanted)
    if transfer.kv_connector_extra_config.get("shared_storage_path") != str(scratch.resolve()):
        missing.append("kv_connector_extra_config does not reach the connector")
    return Answer(facts, tuple(missing))


def open_flags(stand_in: StandIn) -> Answer:
    """What vLLM takes a checkpoint's missing flags and layers to be; which algorithms it knows."""
    from vllm.model_executor.models.interfaces import SupportsEagle3
    from vllm.transformers_utils.configs.speculators.algos import SUPPORTED_SPECULATORS_TYPES
    from vllm.transformers_utils.configs.speculators.base import SpeculatorsConfig

    document = stand_in.draft_document()
    bare = {name: value for name, value in document.items() if name not in FORMAT.flags}
    mapped = SpeculatorsConfig.extract_transformers_pre_trained_config(bare)
    flags = {flag: mapped.get(flag, False) for flag in FORMAT.flags}
    missing = [
        f"{flag}: a missing flag means {value}, we write {FORMAT.open_flags[flag]}"
        for flag, value in flags.items()
        if value != FORMAT.open_flags[flag]
    ]
    model = argparse.Namespace(layers=[None] * 30)
    layers = list(SupportsEagle3.get_eagle3_default_aux_hidden_state_layers(argparse.Namespace(model=model)))
    if layers != [2, 15, 27]:
        missing.append(f"the default layers of 30 are {layers}, we write [2, 15, 27]")
    missing += [
        f"no algorithm {name!r} any more"
        for name in FORMATS
        if name not in SUPPORTED_SPECULATORS_TYPES and not FORMATS[name].flat
    ]
    facts = {
        "missing flags mean": flags,
        "missing layers of 30 mean": layers,
        "algorithms": sorted(SUPPORTED_SPECULATORS_TYPES),
        "keys of the draft's configuration": sorted(mapped),
        "speculative configuration": SpeculatorsConfig.extract_vllm_speculative_config(document),
    }
    return Answer(facts, tuple(missing))


def counters(stand_in: StandIn) -> Answer:
    """Counts given to vLLM's logger come back through its Prometheus page and our reader."""
    from prometheus_client import generate_latest
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.spec_decode.metrics import SpecDecodingStats

    tokens = stand_in.speculative_tokens
    line = server_arguments(PORT, stand_in.engine_args, Speculation(stand_in.draft, "eagle3", tokens))
    config = engine_config(["--model", str(stand_in.verifier), *line])
    logger = PrometheusStatLogger(config, [0])
    for accepted in (2, 0):
        stats = SpecDecodingStats.new(tokens)
        stats.observe_draft(num_draft_tokens=tokens, num_accepted_tokens=accepted)
        logger.spec_decoding_prom.observe(stats, 0)
    page = generate_latest().decode()
    found = read_spec_counters(page)
    wanted = SpecCounters(2, 2 * tokens, 2, (1, 1, *[0] * (tokens - 2)))
    missing = [] if found == wanted else [f"our reader finds {found} where vLLM was told {wanted}"]
    names = sorted({row.partition("{")[0] for row in page.splitlines() if row.startswith("vllm:spec_decode")})
    work = [name for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total") if name in page]
    if len(work) != 2 or read_tokens(page) != 0:
        missing.append("the counters of prompt and generated tokens are gone")
    facts = {"speculation": [name for name in names if not name.endswith("_created")], "work": work}
    return Answer(facts, tuple(missing))


def arguments() -> Answer:
    """How sizes are read, and which of the arguments that we own exist."""
    parser = _module_parser()
    flags = {flag for action in parser._actions for flag in action.option_strings}
    readers = {name: _reader(parser, name) for name in SIZES}
    sizes = {text: read_size("max_model_len", text) for text in ("512", "1k", "1K", "512M", "1G", "auto")}
    missing = [f"no argument {name!r} any more" for name, reader in readers.items() if reader == GONE]
    if sizes != {"512": 512, "1k": 1000, "1K": 1024, "512M": 512 * 2**20, "1G": 2**30, "auto": -1}:
        missing.append(f"sizes are read as {sizes}")
    owned = {name: f"--{name.replace('_', '-')}" in flags for name in OWNED_ARGS}
    missing += [f"no argument {name!r} any more" for name, there in owned.items() if not there]
    parser_module = _first_import(PARSER_MODULES).__name__
    return Answer({"parser": parser_module, "sizes": sizes, "readers": readers}, tuple(missing))


def _reader(parser: Any, name: str) -> str:
    action = parser._option_string_actions.get(f"--{name.replace('_', '-')}")
    return getattr(action.type, "__name__", str(action.type)) if action else GONE


def engine_config(line: list[str]) -> Any:
    """What the server's module makes of its command line."""
    return _config(_module_parser().parse_args(line))


def _config(arguments: argparse.Namespace) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    engine = AsyncEngineArgs.from_cli_args(arguments)
    return engine.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


@contextmanager
def _caught() -> Iterator[list[Any]]:
    """Ends an offline engine's start where its configuration is complete; the list then holds that."""
    from vllm.entrypoints.llm import LLMEngine

    def stop(engine_args: Any, usage_context: Any, **_: Any) -> Any:
        raise _Reached(engine_args.create_engine_config(usage_context))

    reached: list[Any] = []
    with mock.patch.object(LLMEngine, "from_engine_args", stop):
        try:
            yield reached
        except _Reached as end:
            reached.append(end.config)


class _RefusedError(Exception):
    """What a parser has against a line."""


def _module_parser() -> Any:
    """The parser of ``python -m vllm.entrypoints.openai.api_server``."""
    return _first_import(PARSER_MODULES).make_arg_parser(_raising()())


def _command_parser() -> Any:
    """The parser of ``vllm serve``."""
    parser = _raising()()
    serve = importlib.import_module("vllm.entrypoints.cli.serve")
    commands = parser.add_subparsers(required=False, dest="subparser", parser_class=_raising())
    for command in serve.cmd_init():
        command.subparser_init(commands)
    return parser


def _raising() -> Any:
    base = _first_import(PARSER_CLASS_MODULES).FlexibleArgumentParser

    # The base is known only once the asked vLLM is imported.
    class RaisingParser(base):  # type: ignore[misc, valid-type]
        def error(self, message: str) -> None:
            raise _RefusedError(message)

    return RaisingParser


def _facts(config: Any) -> dict[str, Any]:
    speculation = config.speculative_config
    facts = {field: _at(config, field) for field in FIELDS}
    sizes = config.compilation_config.cudagraph_capture_sizes or []
    facts["cudagraph sizes"] = f"{len(sizes)}, from {min(sizes)} to {max(sizes)}" if sizes else "none"
    facts["speculative_config"] = speculation and {
        field: _at(speculation, field) for field in SPECULATION_FIELDS
    }
    return facts


def _at(thing: Any, path: str) -> Any:
    for name in path.split("."):
        thing = getattr(thing, name, GONE)
    return _plain(thing)


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; an enumeration by its name, an object as its text."""
    if isinstance(value, bool | int | float | str | None):
        return getattr(value, "name", value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return getattr(value, "name", None) or str(value)


def _unlike(found: dict[str, Any] | None, wanted: dict[str, Any]) -> list[str]:
    found = found or {}
    return [
        f"{name} is {found.get(name, GONE)}, not {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
