"""The numeric proof of a conversion: source-layout forward against converted forward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.model import SpeculatorModel
from speculators.checkpoint.read import read_checkpoint
from speculators.checkpoint.verifier_layout import text_config
from speculators.checkpoint.weights_file import Stored, load_stored
from speculators.convert import forward
from speculators.convert.eagle.eagle3 import FLAGS, target_name
from speculators.convert.forward_mtp import EXTRACTED, NATIVE, mtp_states
from speculators.convert.plan import Options
from speculators.convert.source import Source, unfit, unsaid
from speculators.errors import StageError

ROWS, STEPS = 24, 3  # enough to tell two drafts apart; forwards are dense
TOLERANCE = 1e-3  # of the largest logit: two orders of float32 sums, and no more


class Proof(NamedTuple):
    """How far two forwards differ on the same random inputs."""

    compared: str
    largest: float  # difference, as a share of the largest value
    tokens: float  # share of rows whose most likely token agrees

    @property
    def ok(self) -> bool:
        return self.largest <= TOLERANCE and self.tokens >= 1 - 1 / ROWS  # one near-tie may fall either way


def prove(kind: str, source: Source, converted: Path, asked: Options) -> Proof | None:
    """Run both forwards; None where this kind has no plain forward.

    ``asked``: what the user said in place of the source.

    Raises:
        StageError: they differ, or the source's tensors do not fit together.
    """
    if kind not in PROOFS:
        return None
    try:
        proof = PROOFS[kind](corrected(source, asked), SpeculatorModel.from_pretrained(converted))
    except (RuntimeError, ArithmeticError, ValueError) as error:
        # Of shapes that no check has compared, and of numbers of a RoPE that lead to no angle.
        first = str(error).split("\n", 1)[0]
        raise unfit(source.folder, f"its forward cannot be computed: {first}") from error
    if not proof.ok:
        raise StageError(
            f"{source.folder}: the converted draft differs by {proof.largest:.1e} of the largest value, "
            f"{proof.tokens:.0%} of tokens agree ({proof.compared})",
            hint="nothing was written; report this layout as a bug",
            rule="conversion-differs",
        )
    return proof


def corrected(source: Source, asked: Options) -> Source:
    """The source with the user's flags, and his layers as it counts them; EAGLE-3 forwards know no layers."""
    said = {name: dict(source.config.get(name) or {}) for name in ("eagle_config", "dflash_config")}
    said["eagle_config"] |= asked.flags
    if asked.aux_layers is not None:
        said["dflash_config"]["target_layer_ids"] = [layer - 1 for layer in asked.aux_layers]
    return source._replace(config={**source.config, **said})


def difference(source: Source, compared: str, one: list[torch.Tensor], other: list[torch.Tensor]) -> Proof:
    """Of two lists of [T, V], the first one by ``source``.

    Raises:
        StageError: the first ones are all zero, or not finite: no comparison would tell anything.
    """
    pairs = list(zip(one, other))
    size = max(float(a.abs().max()) for a in one)
    if not 0 < size < math.inf or not all(bool(a.isfinite().all()) for a in one):
        raise StageError(
            f"{source.folder}: its forward gives values up to {size}: nothing can be compared with them",
            hint="a draft with such weights drafts nothing; copy it again, or look at how it was trained",
            rule="source-tensors",
        )
    largest = max(float((a - b).abs().max()) for a, b in pairs) / size
    agreeing = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in pairs]).float().mean()
    return Proof(compared, largest, float(agreeing))


def source_weights(source: Source, spelled: Mapping[str, str] | None = None) -> forward.Weights:
    """The source's tensors by their own names, or by those that ``spelled`` maps to them."""

    def weight(name: str) -> torch.Tensor | None:
        stored = name if spelled is None else spelled.get(name, name)
        return source.load(stored).float() if stored in source.tensors else None

    return weight


def model_weights(model: SpeculatorModel) -> forward.Weights:
    def weight(name: str) -> torch.Tensor | None:
        piece = model.tensors.get(name)
        return (
            (load_stored(piece) if isinstance(piece, Stored) else piece).float()
            if piece is not None
            else None
        )

    return weight


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def scattered(logits: torch.Tensor, ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Draft logits [T, Vd] over the verifier's vocabulary [T, V]."""
    return torch.full((len(logits), vocab_size), float(logits.min()) - 1).index_copy(1, ids, logits)


def prove_eagle3(source: Source, model: SpeculatorModel) -> Proof:
    """Three drafting steps in the source's names and map against our own EAGLE-3."""
    config = model.config.to_document()
    layer = config["transformer_layer_config"]
    vocab_size, hidden = layer["vocab_size"], layer["hidden_size"]
    bare = {name.removeprefix("model.").removeprefix("draft_model."): name for name in source.tensors}
    aux = random(ROWS, source.shape(bare["fc.weight"])[1])
    embeddings = tuple(random(ROWS, hidden + step)[:, :hidden] for step in range(STEPS))
    first = "midlayer" if any(name.startswith("midlayer.") for name in bare) else "layers.0"
    ids = source_ids(source, bare, vocab_size)
    shared = random(vocab_size, hidden) if "lm_head.weight" not in bare else None
    was = forward.eagle3_logits(
        headed(source_weights(source, bare), shared), first, source.config, source_flags(source, bare), aux,
        embeddings,
    )  # fmt: skip
    one = [scattered(logits, ids, vocab_size) for logits in was]
    assert model.folder is not None  # it was read from one
    ids = torch.arange(vocab_size)
    if "d2t" in model.tensors:
        d2t = model.state_dict()["d2t"]
        ids = d2t + torch.arange(len(d2t))
    try:
        loaded = read_checkpoint(model.folder)
    except StageError:  # a family that our own draft does not compute: the same plain forward, new names
        flags, weights = {flag: config[flag] for flag in FLAGS}, headed(model_weights(model), shared)
        now = forward.eagle3_logits(weights, "layers.0", layer, flags, aux, embeddings)
        by = "plain forward in both layouts"
    else:
        now = stepped(loaded if shared is None else loaded._replace(head=shared), aux, embeddings)
        by = "plain forward of the source against our EAGLE-3"
    return difference(source, by, one, [scattered(logits, ids, vocab_size) for logits in now])


def stepped(loaded: Any, aux: torch.Tensor, embeddings: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Logits [T, Vd] of each step by ``models.eagle3``."""
    draft, found = loaded.draft, []
    with torch.no_grad():
        state, cache = draft.combine(aux), draft.new_cache()
        for step, embedded in enumerate(embeddings):
            positions = torch.arange(ROWS) + step
            state, normed = draft.step(state, embedded, positions, cache, [(0, ROWS)])
            found.append(normed @ loaded.head.T)
    return found


def headed(weights: forward.Weights, shared: torch.Tensor | None) -> forward.Weights:
    """``weights`` with the head [V, H] that a draft without its own shares with its verifier: any will do."""
    return weights if shared is None else lambda name: shared if name == "lm_head.weight" else weights(name)


def source_flags(source: Source, bare: Mapping[str, str]) -> dict[str, bool]:
    """The norms that a source computes, by its own words or else by its tensors."""
    nested = source.config["eagle_config"]
    said = {flag: source.config.get(flag) if nested.get(flag) is None else nested[flag] for flag in FLAGS}
    seen = {
        "norm_before_fc": "input_norm.weight" in bare,
        "fc_norm": any(name.startswith("fc_norm.") for name in bare),
    }
    return {flag: bool(seen.get(flag) if said[flag] is None else said[flag]) for flag in FLAGS}


def source_ids(source: Source, bare: Mapping[str, str], vocab_size: int) -> torch.Tensor:
    """Verifier token of each row of the source's head [Vd], told without the converter's reading of the map.

    Where no ``t2d`` tells whether ``d2t`` is absolute, what leads to as many tokens as there are rows is.
    """
    if "lm_head.weight" not in bare or source.shape(bare["lm_head.weight"])[0] == vocab_size:
        return torch.arange(vocab_size)
    marked = torch.ones(vocab_size, dtype=torch.bool)
    if "t2d" in bare:
        marked = source.load(bare["t2d"]).bool()  # [V]
    if "d2t" not in bare:
        return torch.arange(vocab_size)[marked]
    stored = source.load(bare["d2t"]).long()  # [Vd]
    inside = bool(((stored >= 0) & (stored < vocab_size)).all())
    absolute = inside and len(set(stored.tolist())) == len(stored) and bool(marked[stored].all())
    return stored if absolute else torch.tensor([row + offset for row, offset in enumerate(stored.tolist())])


def prove_eagle(source: Source, model: SpeculatorModel) -> Proof:
    """The draft's states, source names and config against the converted ones."""
    layer = dict(model.config.transformer_layer_config)
    hidden = layer["hidden_size"]
    states, embedded = random(ROWS, hidden), random(ROWS, hidden + 1)[:, :hidden]
    spelled = {target_name(name): name for name in source.tensors}
    was = forward.eagle_states(source_weights(source, spelled), source.config, states, embedded)
    now = forward.eagle_states(model_weights(model), layer, states, embedded)
    return difference(source, "plain EAGLE forward in both layouts", [was], [now])


def prove_dflash(source: Source, model: SpeculatorModel) -> Proof:
    """A block drafted from a verifier's states, layers picked by each layout's own ids."""
    document = model.config.to_document()
    layer, ids = document["transformer_layer_config"], document["aux_hidden_state_layer_ids"]
    target_hidden, hidden = document["target_hidden_size"], layer["hidden_size"]
    residual = random(max(ids) + 1, ROWS, target_hidden)  # after k layers, k = 0 ..
    own = source.config["dflash_config"].get("target_layer_ids") or [layer - 1 for layer in ids]
    block = random(document["block_size"], hidden)
    was = forward.dflash_states(
        source_weights(source), source.config, torch.cat([residual[one + 1] for one in own], dim=-1), block
    )
    now = forward.dflash_states(
        model_weights(model), layer, torch.cat([residual[one] for one in ids], dim=-1), block
    )
    return difference(source, "plain DFlash forward in both layouts", [was], [now])


def prove_mtp(source: Source, model: SpeculatorModel) -> Proof:
    """The head's states inside its verifier against those outside, on random states.

    Raises:
        StageError: the head lacks a tensor, or its config a size.
    """
    config = text_config(source.config)
    needed = ("hidden_size", "num_attention_heads", "head_dim", "rms_norm_eps")
    if missing := [key for key in needed if config.get(key) is None]:
        raise unsaid(source, missing)
    hidden = int(config["hidden_size"])
    states, embedded = random(ROWS, hidden), random(ROWS, hidden + 1)[:, :hidden]
    try:
        was = mtp_states(source_weights(source), NATIVE, config, states, embedded)
        now = mtp_states(model_weights(model), EXTRACTED, config, states, embedded)
    except KeyError as error:
        raise StageError(
            f"{source.folder}: the head has no tensor {error.args[0]}",
            hint="it is incomplete, or of a family other than Qwen3-Next and Qwen3.5",
            rule="source-tensors",
        ) from error
    return difference(source, "plain MTP forward in both layouts", [was], [now])


PROOFS = {"eagle3": prove_eagle3, "eagle": prove_eagle, "dflash": prove_dflash, "mtp": prove_mtp}
