"""What this project relies on in vLLM: one row a question, with the place in our code that relies on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.contracts import asked_chat, asked_code, asked_configs
from tests.contracts.stand_ins import StandIn, recipes


class Question(NamedTuple):
    """``ask`` gives an ``Answer``; it runs in a process whose vLLM is the one that is asked."""

    name: str
    relied: str  # what we rely on
    used: str  # where in our code
    ask: Callable[[], Any]


def questions(scratch: Path) -> list[Question]:
    """All rows, in the order of the report.  ``scratch`` holds the stand-in models."""
    stand_ins = [StandIn(recipe, scratch) for recipe in recipes()]
    dense = next(one for one in stand_ins if one.recipe.name == "qwen3-8b-eagle3")
    return [*(row for stand_in in stand_ins for row in _of_recipe(stand_in)), *_of_engine(dense)]


def _of_recipe(stand_in: StandIn) -> list[Question]:
    name, configs = stand_in.recipe.name, asked_configs
    alone = Question(
        f"{name}: draft folder alone",
        "'vllm serve DRAFT' finds verifier, method and number of tokens in the folder's config.json",
        "checkpoint/config.py, report/model_card.py",
        partial(configs.served, stand_in, "folder"),
    )
    arms = [
        Question(
            f"{name}: plain arm",
            "both start commands accept the plain arm's line, and its configuration resolves",
            "serving/command.py, serving/launcher.py",
            partial(configs.served, stand_in, "plain"),
        ),
        Question(
            f"{name}: draft arm",
            "they accept the draft arm's line, and the draft we package is recognised as it is meant",
            "serving/command.py, checkpoint/config.py",
            partial(configs.served, stand_in, "draft"),
        ),
    ]
    if stand_in.free:  # nothing is generated, captured or packaged
        return arms
    generation = Question(
        f"{name}: generation",
        "vllm.LLM takes the arguments of generation",
        "serving/offline.py, stages/responses.py",
        partial(configs.generation, stand_in),
    )
    return [
        *arms,
        # vLLM has no reader of the speculators format for kinds that are stored flat.
        *([] if stand_in.format.flat else [alone]),
        # For a ready-made draft nothing is generated; its predicted acceptance is captured.
        *([] if stand_in.brought else [generation]),
        Question(
            f"{name}: capture",
            "vllm.LLM takes extract_hidden_states and the connector, and captures the layers we name",
            "datagen/capture.py",
            partial(configs.capture, stand_in),
        ),
    ]


def _of_engine(stand_in: StandIn) -> list[Question]:
    configs, code = asked_configs, asked_code
    return [
        Question(
            "checkpoint flags",
            "flags and layers that a checkpoint leaves open mean what we write in",
            "checkpoint/config.py",
            partial(configs.open_flags, stand_in),
        ),
        Question(
            "counters",
            "vLLM's own Prometheus page, read by our reader, gives the counts that it was told",
            "serving/metrics.py",
            partial(configs.counters, stand_in),
        ),
        Question(
            "chat",
            "a template gets from the chat endpoint what it gets from us: calls, tools, thoughts, the switch",
            "datagen/chat.py, datagen/responses.py",
            partial(asked_chat.chat, stand_in),
        ),
        Question(
            "sizes and owned arguments",
            "sizes are read as we read them, and every argument that we own exists",
            "serving/offline.py, recipe/engine_rules.py",
            configs.arguments,
        ),
        Question(
            "start commands",
            "the server's module runs as a program, and the wheel installs a 'vllm' command",
            "serving/launcher.py",
            code.start_commands,
        ),
        Question(
            "calls",
            "functions take the arguments that we pass",
            "datagen/*.py, serving/offline.py",
            code.calls,
        ),
        Question(
            "attributes",
            "objects have the attributes that we read",
            "datagen/*.py, serving/offline.py",
            code.attributes,
        ),
        Question(
            "connector",
            "the stock hidden-states connector exists and has all that our CPU subclass leans on",
            "datagen/cpu_connector.py, datagen/state_files.py",
            code.connector,
        ),
        Question(
            "environment",
            "the variables that we set are vLLM's, and with those of a container it writes to scratch only",
            "serving/environment.py, serving/command.py, executors/request.py, recipes/*.yaml",
            code.environment,
        ),
        Question(
            "server's API",
            "requests and answers have the fields that the client and GuideLLM use",
            "serving/client.py, benchmark/guidellm.py, benchmark/guidellm_report.py",
            code.api,
        ),
        Question(
            "imitated code",
            "code whose arithmetic our trainer, format and reader repeat; a change has to be read",
            "models/eagle3.py, training/ttt.py, checkpoint/*.py, serving/metrics.py, datagen/context.py",
            code.imitated,
        ),
    ]
