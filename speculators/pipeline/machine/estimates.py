"""What a recipe is going to need of memory and disk, estimated before anything is loaded.

Estimates, and called so wherever they are shown: parameters are counted where the weights are at
hand, else computed from the config; answers are taken to be as long as they may be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.rounds import arms_asked
from speculators.checkpoint.config import draft_layout
from speculators.checkpoint.shape import DraftConfig
from speculators.checkpoint.tensors import EMBED_TOKENS
from speculators.datagen.disk import states_bytes
from speculators.datagen.parquet import is_parquet
from speculators.datagen.prompt_files import GZIP, count_rows, is_lines
from speculators.quantities import byte_count
from speculators.recipe.facts import VerifierFacts
from speculators.recipe.view import free_kind, trains

FLOAT32_BYTES = 4
STORED_STATE_BYTES = 2  # bfloat16, as hidden_states packs them
ENGINE_STATE_BYTES = 4  # what the engine may write for the shard in flight
#: Weights and the two moments of AdamW.
TRAINING_COPIES = 3
#: A rule of thumb for English text; the answers are counted exactly and weigh more.
BYTES_PER_PROMPT_TOKEN = 4
HALF_DTYPES_BYTES = 2
#: A rule of thumb for compressed conversations.
EXPANDS = 3


class Prompts(NamedTuple):
    """What the training files hold: rows and bytes, after ``limit``."""

    rows: int
    bytes: int


class Needs(NamedTuple):
    """Bytes.  ``weights`` are the engine's copy, ``reference`` the float32 copy of the golden probe."""

    parameters: int
    weights: int
    cache: int
    reference: int
    tokens: int  # of the conversations that are captured, 0 where their states are brought; no bytes
    verifier: int  # what its stage keeps: nothing where it links the hub cache
    states: int
    training: int
    model: int  # the packaged draft, once in the store and once in the run's folder
    servers: int = 1  # that run at once; no bytes

    @property
    def store(self) -> int:
        """Everything that stages keep."""
        return self.verifier + self.states + self.training + self.model


def estimate(
    data: Mapping[str, Any],
    facts: VerifierFacts,
    prompts: Prompts,
    draft: DraftConfig | None,
    counted: int | None = None,
    brought: int = 0,
) -> Needs:
    """Needs of a resolved recipe that trains ``draft``, if any.

    ``counted`` are the parameters counted in the weights, if they are here.
    ``brought``: bytes of states that the recipe brings, of which a copy is made.
    """
    args = data["engine"]["args"]
    parameters = counted or facts.parameters or verifier_parameters(facts)
    learns = trains(data)
    trainable = draft_parameters(draft) if draft else 0
    model = (trainable + facts.vocab_size * facts.hidden_size) * FLOAT32_BYTES if learns else 0
    weights = engine_bytes(parameters, facts.weights_bytes, args.get("dtype"))
    # A GGUF file is written anew and a folder is copied.
    verifier = parameters * FLOAT32_BYTES
    if "repository" in data["verifier"]:
        # Weights of the hub cache are linked, but out of a container they can only be copied.
        verifier = weights if data["executor"] == "docker" else 0
    return Needs(
        parameters=parameters,
        weights=weights,
        cache=byte_count(args.get("kv_cache_memory_bytes")),
        reference=parameters * FLOAT32_BYTES if learns else 0,
        tokens=tokens_at_most(data["datagen"], prompts) if learns and not brought else 0,
        verifier=verifier,
        states=brought or (captured_bytes(data, facts, prompts) if learns else 0),
        training=trainable * FLOAT32_BYTES * TRAINING_COPIES,
        model=model,
        servers=_servers(data),
    )


def _servers(data: Mapping[str, Any]) -> int:
    """Those of a round's arms that the recipe runs at once; each has weights and a cache of its own."""
    if not data["benchmark"]["side_by_side"]:
        return 1
    return arms_asked(data, len(set(data["benchmark"]["extra_arms"]) - {free_kind(data)}))


def verifier_parameters(facts: VerifierFacts) -> int:
    """Parameters of a dense decoder with these widths; a mixture of experts has more."""
    width, head = facts.hidden_size, facts.head_dim
    queries, keys = facts.num_attention_heads * head, facts.num_key_value_heads * head
    layer = width * (2 * queries + 2 * keys + 3 * facts.intermediate_size + 2)
    ends = facts.vocab_size * width * (1 if facts.tie_word_embeddings else 2)
    return facts.num_hidden_layers * layer + ends + width


def draft_parameters(config: DraftConfig) -> int:
    """Parameters of a draft without its embedding."""
    required = draft_layout(config).required
    return sum(math.prod(shape) for name, shape in required.items() if name != EMBED_TOKENS)


def captured_bytes(data: Mapping[str, Any], facts: VerifierFacts, prompts: Prompts) -> int:
    """The packed states of all rows, and the engine's files of the shard in flight."""
    tokens = tokens_at_most(data["datagen"], prompts)
    rows = max(1, prompts.rows + data["datagen"]["prompts"]["magpie"]["count"])
    in_flight = math.ceil(tokens * min(1.0, data["datagen"]["rows_per_shard"] / rows))
    layers = len(data["algorithm"].get("aux_layers", ())) + 1
    return states_bytes(tokens, layers, facts.hidden_size, STORED_STATE_BYTES) + states_bytes(
        in_flight, layers, facts.hidden_size, ENGINE_STATE_BYTES
    )


def tokens_at_most(datagen: Mapping[str, Any], prompts: Prompts) -> int:
    """Tokens of the training conversations when every answer is as long as it may be."""
    magpie = datagen["prompts"]["magpie"]
    answer: int = datagen["max_tokens"] if datagen["responses"] == "regenerate" else 0
    written: int = magpie["count"] * (magpie["max_tokens"] + answer)
    return prompts.rows * answer + prompts.bytes // BYTES_PER_PROMPT_TOKEN + written


def count_prompts(files: list[Path], limit: int | None) -> Prompts:
    rows = size = 0
    for path in files:
        if not is_lines(path):
            count = count_rows(path)
            taken = count if limit is None else min(count, max(0, limit - rows))
            expands = EXPANDS if is_parquet(path) or path.suffix == GZIP else 1
            rows, size = rows + taken, size + expands * path.stat().st_size * taken // max(count, 1)
            continue
        with path.open("rb") as file:
            for line in filter(bytes.strip, file):
                if limit is not None and rows >= limit:
                    return Prompts(rows, size)
                rows, size = rows + 1, size + len(line)
    return Prompts(rows, size)


def count_parameters(folder: Path) -> int | None:
    """Parameters in the safetensors files of ``folder``, by their headers; None when there are none."""
    counts = [_parameters_in(path) for path in sorted(folder.glob("*.safetensors"))]
    return sum(counts) or None


def _parameters_in(path: Path) -> int:
    """The format begins with its header's length (8 bytes, little endian) and the header, JSON.

    0 for what is no such file, or was not fetched whole: then the config has to do.
    """
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes: list[list[int]] = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, KeyError, MemoryError, OverflowError):
        return 0


def engine_bytes(parameters: int, published: int, dtype: Any) -> int:
    """The weights in the engine: as ``published`` where that is known (0: not), else two bytes each.

    'auto' never serves in float32.
    """
    if dtype in ("float32", "float"):
        return parameters * FLOAT32_BYTES
    return published or parameters * HALF_DTYPES_BYTES
