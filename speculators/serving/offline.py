"""vLLM's offline engine, configured by the recipe and certainly stopped.

Data generation, capture and replay all need the same engine with small differences; the recipe's
``engine.args`` mean here exactly what they mean to ``vllm serve``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speculators.errors import RecipeError, StageError

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["engine_arguments", "offline_engine", "read_size"]

#: Arguments for which vLLM's command line accepts sizes such as ``512M``, and its Python API does not.
SIZES = (
    "kv_cache_memory_bytes",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_scheduled_tokens",
)

DEFAULTS = {
    # The engine's own defaults, not those a model's author chose for chatting.
    "generation_config": "vllm",
    # Identical work for identical requests, whatever ran before.
    "enable_prefix_caching": False,
}


def engine_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for ``vllm.LLM`` from the recipe's ``engine.args``.

    Raises:
        RecipeError: a size is not one that vLLM's parser reads.
    """
    from vllm.engine.arg_utils import EngineArgs

    # Whatever else vLLM's parser accepted is for the server around the engine.
    engine = {field.name for field in fields(EngineArgs)}
    known = {name: value for name, value in args.items() if name in engine}
    return {
        name: read_size(name, value) if name in SIZES and isinstance(value, str) else value
        for name, value in (DEFAULTS | known).items()
    }


def read_size(name: str, value: str) -> int:
    """The value of ``engine.args.<name>`` as vLLM's command line reads it; -1 for ``auto``.

    Raises:
        RecipeError: it is no size.
    """
    import argparse

    from vllm.utils.argparse_utils import human_readable_int_or_auto

    try:
        size: int = human_readable_int_or_auto(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise RecipeError(
            f"engine.args.{name}: {value!r} is no size",
            hint="write a number, or one such as 512M or 1G",
            rule="engine-args",
        ) from error
    return size


@contextmanager
def offline_engine(
    model_dir: Path, engine_args: Mapping[str, Any], *, seed: int, **extra: Any
) -> Iterator[LLM]:
    """A running engine, shut down on leaving.  ``extra`` are further ``vllm.LLM`` arguments and win.

    Raises:
        RecipeError: vLLM refuses an argument.
        StageError: the engine did not start.
    """
    # An engine in this process steps only when it is asked to, so that a call's batches are always the
    # same; one in a child starts on the first request while others still arrive.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    engine = _start(str(model_dir), {**engine_arguments(engine_args), **extra, "seed": seed})
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def _start(model: str, arguments: dict[str, Any]) -> LLM:
    from vllm import LLM

    try:
        return LLM(model, **arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"engine.args: vLLM refuses them: {error}",
            hint="they are vLLM's argument names with underscores",
            rule="engine-args",
        ) from error
    except RuntimeError as error:
        raise StageError(f"the offline engine did not start: {error}", rule="engine-failed") from error
