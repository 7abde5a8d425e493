"""A world small enough for exact arithmetic: a random verifier's ends, random documents, a draft.

The verifier is Llama-like on disk but has no decoder layers to run: training needs its states and
its ends only, and random states exercise the same arithmetic as real ones.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.checkpoint.peagle import PEagleConfig
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.datagen.shards import Document, write_index, write_shard
from speculators.models.eagle3 import Eagle3Draft
from speculators.models.peagle import PEagleDraft
from speculators.stages.documents import StageInput, write_output
from speculators.training.architectures import ARCHITECTURES
from speculators.training.objective import Batch, Objective, Teaching
from speculators.training.packing import PackedSequence, pack
from speculators.training.ttt import TrainTimeTest
from speculators.training.verifier import FrozenVerifier

Module = TypeVar("Module", bound=torch.nn.Module)

# Threads that share a matrix of 16 columns only wait for each other.
torch.set_num_threads(1)

CONFIG = Eagle3Config(
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    max_position_embeddings=128,
    layers=1,
    aux_layers=(1, 2, 4),
    vocab_size=50,
    draft_vocab_size=20,
)
DEPTH = 6

FACTS = {
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "hidden_size": CONFIG.hidden_size,
    "num_hidden_layers": DEPTH,
    "vocab_size": CONFIG.vocab_size,
    "num_attention_heads": CONFIG.num_attention_heads,
    "num_key_value_heads": CONFIG.num_key_value_heads,
    "head_dim": CONFIG.head_dim,
    "intermediate_size": CONFIG.intermediate_size,
    "rms_norm_eps": CONFIG.rms_norm_eps,
    "rope_parameters": {"rope_type": "default", "rope_theta": CONFIG.rope_theta},
    "max_position_embeddings": CONFIG.max_position_embeddings,
    "tie_word_embeddings": False,
}

# The recipe blocks of a training that this world can do.
ALGORITHM = {
    "kind": "eagle3", "speculative_tokens": 2, "aux_layers": [1, 2, 4], "layers": 1, "draft_vocabulary": 20,
    "norm_before_residual": False, "norm_before_fc": True, "fc_norm": False, "norm_output": False,
}  # fmt: skip
TRAINING = {
    "sequence_length": 32, "sequences_per_step": 1, "epochs": 2, "learning_rate": 0.01, "weight_decay": 0.01,
    "warmup_fraction": 0.05, "gradient_clip": 1.0, "step_decay": 1.0, "ttt_steps": None, "seed": 0,
    "optimizer": "adamw", "schedule": "cosine", "validations_per_epoch": 1, "early_stop": None,
    "devices": "auto", "parallelism": "ddp", "trackers": [],
}  # fmt: skip


# The algorithm block of every kind, resolved.
ALGORITHMS = {
    "eagle3": ALGORITHM,
    "peagle": {
        "kind": "peagle", "speculative_tokens": 3, "aux_layers": [1, 2, 4], "layers": 1,
        "draft_vocabulary": 20, "norm_before_residual": False, "norm_before_fc": True, "mask_token_id": 7,
    },
    "dflash": {
        "kind": "dflash", "speculative_tokens": 3, "aux_layers": [1, 2, 4], "layers": 1,
        "draft_vocabulary": 20, "mask_token_id": 7,
    },
    "eagle": {"kind": "eagle", "speculative_tokens": 3, "layers": 1},
    "hass": {"kind": "hass", "speculative_tokens": 3, "layers": 1},
}  # fmt: skip


def config(**changes: object) -> Eagle3Config:
    return replace(CONFIG, **changes)  # type: ignore[arg-type]


def draft(shape: Eagle3Config = CONFIG, seed: int = 0, dtype: torch.dtype = torch.float64) -> Eagle3Draft:
    """A random EAGLE-3 draft, or P-EAGLE one where the shape is of that."""
    kind = PEagleDraft if isinstance(shape, PEagleConfig) else Eagle3Draft
    return randomised(kind(shape).to(dtype), seed)


def randomised(model: Module, seed: int = 0) -> Module:
    """The model with every parameter random, norms included, so that no gain hides behind a one."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=0.3)
    return model


def of_kind(kind: str, positions: int, dtype: torch.dtype = torch.float64, **changes: object) -> Objective:
    """A random draft of ``kind``, taught by this world's verifier; ``changes`` are of its config."""
    known, (model, objective_of, _) = ARCHITECTURES[kind].format, ARCHITECTURES[kind].load()
    shape = replace(known.config.for_verifier(FACTS, ALGORITHMS[kind]), **changes)
    every = shape.draft_vocab_size == shape.vocab_size
    verifier = FrozenVerifier.of(weights(dtype=dtype), torch.arange(shape.vocab_size), dtype)
    return objective_of(
        randomised(model(shape).to(dtype)), verifier if every else frozen(dtype), Teaching(positions)
    )


def weights(seed: int = 1, dtype: torch.dtype = torch.float64) -> VerifierWeights:
    generator = torch.Generator().manual_seed(seed)
    size = (CONFIG.vocab_size, CONFIG.hidden_size)
    return VerifierWeights(
        embedding=torch.randn(size, generator=generator, dtype=torch.float64).to(dtype),
        final_norm=(1 + 0.1 * torch.randn(CONFIG.hidden_size, generator=generator)).to(dtype),
        norm_eps=CONFIG.rms_norm_eps,
        head=torch.randn(size, generator=generator, dtype=torch.float64).to(dtype),
    )


def frozen(dtype: torch.dtype = torch.float64, drawn: torch.dtype | None = None) -> FrozenVerifier:
    """This world's verifier in ``dtype``, of weights rounded to ``drawn`` before."""
    draft_ids = torch.arange(CONFIG.draft_vocab_size) * 2 + 3
    return FrozenVerifier.of(weights(dtype=drawn or dtype), draft_ids, dtype)


def objective(
    model: Eagle3Draft, positions: int, step_decay: float = 1.0, dtype: torch.dtype = torch.float64
) -> TrainTimeTest:
    """Train-time-test of ``model`` against this world's verifier."""
    return TrainTimeTest(model, frozen(dtype), Teaching(positions, step_decay))


def batches(taught: TrainTimeTest, *groups: list[Document]) -> list[Batch]:
    """One batch for each group of documents, packed in the verifier's dtype."""
    dtype = taught.verifier.embedding.dtype
    return [taught.batch(pack(group, dtype), torch.Generator()) for group in groups]


def document(
    length: int, prompt_tokens: int, seed: int, split: str = "train", looping: bool = False
) -> Document:
    generator = torch.Generator().manual_seed(seed)
    return Document(
        id=f"doc-{seed}",
        group=f"topic-{seed % 3}",
        split=split,
        looping=looping,
        prompt_tokens=prompt_tokens,
        token_ids=torch.randint(CONFIG.vocab_size, (length,), generator=generator),
        hidden_states=torch.randn(length, 4, CONFIG.hidden_size, generator=generator),
    )


def packed(documents: list[Document], dtype: torch.dtype = torch.float32) -> PackedSequence:
    return pack(documents, dtype)


@st.composite
def sequences(draw: st.DrawFn) -> PackedSequence:
    """Packed documents of one turn or several: any prefix-free mixture of prompt and answer tokens."""
    turns = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=3)
    spans = draw(st.lists(turns.filter(lambda turn: sum(map(sum, turn)) > 0), min_size=1, max_size=4))
    documents, masks = [], []
    for seed, document_turns in enumerate(spans):
        mask = [flag for asked, said in document_turns for flag in [False] * asked + [True] * said]
        documents.append(document(len(mask), 0, seed))
        masks += mask
    return packed(documents)._replace(supervised=torch.tensor(masks))


def write_verifier(folder: Path, tied: bool = False, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The verifier as a Llama-like model folder."""
    folder.mkdir(parents=True)
    ends = weights(dtype=dtype)
    tensors = {"model.embed_tokens.weight": ends.embedding, "model.norm.weight": ends.final_norm}
    if not tied:
        tensors["lm_head.weight"] = ends.head
    save_file(tensors, folder / "model.safetensors")
    document = {**FACTS, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def write_world(root: Path, layers: tuple[int, ...] = (1, 2, 4)) -> dict[str, Path]:
    """The outputs of the stages before training, by stage name; ``layers`` are the auxiliary ones."""
    verifier, states = root / "verifier", root / "hidden_states"
    write_verifier(verifier / "model")
    result = {"id": "local:tiny", "digest": "ab" * 32, "facts": FACTS}
    write_output(StageInput("verifier", {}, {}, {}, verifier), result, 0.0)
    states.mkdir()
    documents = [
        document(12 + seed % 4, 4, seed, "validation" if seed % 4 == 0 else "train") for seed in range(16)
    ]
    count = len(layers) + 1
    documents = [one._replace(hidden_states=one.hidden_states[:, -count:]) for one in documents]
    shards = [write_shard(states, 0, documents, torch.float32)]
    write_index(states, [*layers, DEPTH], CONFIG.hidden_size, "float32", shards)
    return {"verifier": verifier, "hidden_states": states}
