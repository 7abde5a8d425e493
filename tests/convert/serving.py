"""Synthetic checkpoints in other trainers' layouts, made to be served, and what their own forward drafts.

The drafts are random, for a verifier of ``tests.models.words``.  The source-layout forward
(``speculators.convert.forward``) guesses from every row, feeding back its own guesses, as an engine does;
nothing of the converted checkpoint is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.tensors import layer_shapes, within
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.convert import forward
from speculators.convert.proof import source_weights
from speculators.convert.source import open_source
from speculators.datagen.shards import Document
from tests.convert.sources import write

HIDDEN, VOCAB = 64, 64
LAYERS = (1, 2, 3)  # after-layer; the configs write layer outputs
DRAFT_IDS = torch.cat([torch.arange(2, 12), torch.arange(16, 56, 4), torch.arange(57, 63)])
BLOCK = 4
MASK = 3

DECODER: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
    "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 256, "vocab_size": VOCAB,
}  # fmt: skip


class Layout(NamedTuple):
    """``make`` writes a checkpoint; ``draft``: document, layers' states and steps -> guesses [T, steps]."""

    make: Callable[[Path], Path]
    draft: Callable[[Path, VerifierWeights, Document, int], torch.Tensor]
    told: dict[str, Any]  # what the conversion is told beside the verifier


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Gains near one, matrices that neither grow nor shrink what they are given."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: 1 + 0.2 * torch.randn(shape, generator=generator)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        for name, shape in shapes.items()
    }


def specforge(folder: Path) -> Path:
    """EAGLE-3: ``midlayer`` names, layer outputs counted from zero, absolute ids in no order."""
    one = {**layer_shapes(DECODER, 2 * HIDDEN), "hidden_norm.weight": (HIDDEN,)}
    shapes: dict[str, tuple[int, ...]] = {f"midlayer.{name}": shape for name, shape in one.items()}
    shapes |= {"fc.weight": (HIDDEN, 3 * HIDDEN), "norm.weight": (HIDDEN,),
               "lm_head.weight": (len(DRAFT_IDS), HIDDEN)}  # fmt: skip
    order = torch.randperm(len(DRAFT_IDS), generator=torch.Generator().manual_seed(2))
    tensors = {**random_tensors(shapes), "d2t": DRAFT_IDS[order]}
    said = {"eagle_aux_hidden_state_layer_ids": [0, 1, 2], "use_aux_hidden_state": True}
    config = {**DECODER, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": len(DRAFT_IDS)}
    return write(folder, {**config, "eagle_config": said}, tensors)


def eagle(folder: Path) -> Path:
    """EAGLE, under the names of its trainer."""
    shapes = {"fc.weight": (HIDDEN, 2 * HIDDEN), **within(0, layer_shapes(DECODER, HIDDEN))}
    del shapes["layers.0.input_layernorm.weight"]
    return write(folder, {**DECODER, "bias": False}, random_tensors(shapes))


def biased_eagle(folder: Path) -> Path:
    """EAGLE of a Qwen2 verifier: q, k and v with biases, o_proj without."""
    shapes = layer_shapes({**DECODER, "attention_bias": True}, HIDDEN)
    more = {f"layers.0.self_attn.{name}_proj.bias": shapes[f"self_attn.{name}_proj.bias"] for name in "qkv"}
    source = open_source(str(eagle(folder / "plain")))
    tensors = {name: source.load(name) for name in source.tensors} | random_tensors(more)
    return write(folder / "biased", source.config, tensors)


def dflash(folder: Path) -> Path:
    """DFlash with two layers of the same key gains: vLLM's CPU build applies the first layer's to all."""
    config = {**DECODER, "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "num_hidden_layers": 2}
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (HIDDEN, 3 * HIDDEN), "hidden_norm.weight": (HIDDEN,), "norm.weight": (HIDDEN,),
    }  # fmt: skip
    for index in range(2):
        shapes |= within(index, layer_shapes(config, HIDDEN))
    tensors = random_tensors(shapes)
    tensors["layers.1.self_attn.k_norm.weight"] = tensors["layers.0.self_attn.k_norm.weight"].clone()
    own = {"mask_token_id": MASK, "target_layer_ids": [0, 1, 2]}
    return write(folder, {**config, "block_size": BLOCK, "dflash_config": own}, tensors)


def draft_eagle3(folder: Path, ends: VerifierWeights, document: Document, steps: int) -> torch.Tensor:
    """Guesses [T - 1, steps]: row t has the states of t and reads token t + 1."""
    source = open_source(str(folder))
    states = document.hidden_states  # [T, N + 1, H], after 0 .. N layers
    written = source.config["eagle_config"]["eagle_aux_hidden_state_layer_ids"]
    aux = torch.cat([states[:-1, layer + 1] for layer in written], dim=-1)  # [T - 1, 3H]
    flags = dict.fromkeys(("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"), False)
    spoken = source.load("d2t")  # [Vd], the token of each row of the head
    read, guesses = [document.token_ids[1:]], []
    for _ in range(steps):
        embeddings = tuple(ends.embedding[tokens] for tokens in read)
        logits = forward.eagle3_logits(
            source_weights(source), "midlayer", source.config, flags, aux, embeddings
        )
        guesses.append(spoken[logits[-1].argmax(-1)])
        read.append(guesses[-1])
    return torch.stack(guesses, dim=-1)


def draft_eagle(folder: Path, ends: VerifierWeights, document: Document, steps: int) -> torch.Tensor:
    """Guesses [T - 1, steps], row by row: a guess continues the sequence up to its row."""
    source = open_source(str(folder))
    normed = ends.normed(document.hidden_states[:-1, -1])  # [T - 1, H]
    guesses = []
    for row in range(len(normed)):
        states, read, said = normed[: row + 1], document.token_ids[1 : row + 2], []
        for _ in range(steps):
            out = forward.eagle_states(source_weights(source), source.config, states, ends.embedding[read])
            said.append(int((out[-1] @ ends.head.T).argmax()))
            states, read = torch.cat([states, out[-1:]]), torch.cat([read, torch.tensor(said[-1:])])
        guesses.append(said)
    return torch.tensor(guesses)


def draft_dflash(folder: Path, ends: VerifierWeights, document: Document, steps: int) -> torch.Tensor:
    """Guesses [T - 1, steps]: one block behind each token, which sees the states before it."""
    source = open_source(str(folder))
    written = source.config["dflash_config"]["target_layer_ids"]
    context = torch.cat([document.hidden_states[:, layer + 1] for layer in written], dim=-1)  # [T, 3H]
    guesses = []
    for row in range(len(context) - 1):
        tokens = torch.tensor([int(document.token_ids[row + 1]), *[MASK] * steps])
        block = ends.embedding[tokens]  # [1 + steps, H]
        out = forward.dflash_states(source_weights(source), source.config, context[: row + 1], block)
        guesses.append((out[1:] @ ends.head.T).argmax(-1).tolist())
    return torch.tensor(guesses)


#: By the converter's name of the layout, with what is particular about it.
LAYOUTS: dict[str, Layout] = {
    "specforge": Layout(specforge, draft_eagle3, {"aux_layers": LAYERS}),
    "eagle": Layout(eagle, draft_eagle, {}),
    "eagle, biased": Layout(biased_eagle, draft_eagle, {}),
    "dflash": Layout(dflash, draft_dflash, {}),
}
