"""The reference's draft built from a case, and a case's batch in the order the reference wants.

Runs in the reference's process: ``speculators`` is its package here, not this project.
"""

from __future__ import annotations

from typing import Any

import torch
from case import Case
from transformers import LlamaConfig

from speculators.config import SpeculatorsConfig, VerifierConfig
from speculators.losses import resolve_loss_config
from speculators.models.eagle3 import Eagle3SpeculatorConfig
from speculators.models.eagle3.core import Eagle3DraftModel
from speculators.proposals.greedy import GreedyTokenProposalConfig

FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")


def speculators_config(verifier: str | None, steps: int) -> SpeculatorsConfig:
    """What the reference stores about serving; only ``verifier`` matters to a step."""
    return SpeculatorsConfig(
        algorithm="eagle3",
        proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=steps)],
        default_proposal_method="greedy",
        verifier=VerifierConfig(name_or_path=verifier, architectures=["LlamaForCausalLM"]),
    )


def empty_model(shape: dict[str, Any], attention: str, verifier: str | None = None) -> Eagle3DraftModel:
    """A draft of ``shape`` with the reference's own initial weights; the verifier's are not set."""
    window = shape["sliding_window"]
    layer = LlamaConfig(
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_attention_heads=shape["num_attention_heads"],
        num_key_value_heads=shape["num_key_value_heads"],
        head_dim=shape["head_dim"],
        rms_norm_eps=shape["rms_norm_eps"],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": shape["rope_theta"],
            **(shape["rope_scaling"] or {}),
        },
        max_position_embeddings=shape["max_position_embeddings"],
        num_hidden_layers=shape["layers"],
        vocab_size=shape["vocab_size"],
        attention_bias=False,
        sliding_window=window,
        layer_types=["sliding_attention" if window else "full_attention"] * shape["layers"],
    )
    layer._attn_implementation = attention
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer,
        draft_vocab_size=shape["draft_vocab_size"],
        eagle_aux_hidden_state_layer_ids=list(shape["aux_layers"]),
        speculators_config=speculators_config(verifier, 3),
        **{flag: shape[flag] for flag in FLAGS},
    )
    return Eagle3DraftModel(config)


def load_vocabulary(model: Eagle3DraftModel, draft_ids: torch.Tensor) -> None:
    """Set which of the verifier's tokens the draft can say: [Vd] int64, ascending."""
    kept = torch.zeros(model.verifier_vocab_size, dtype=torch.bool)
    kept[draft_ids] = True
    model.load_vocab_mappings(kept, draft_ids - torch.arange(len(draft_ids)))


def build(case: Case, attention: str) -> Eagle3DraftModel:
    """The reference's draft with the case's weights, in training mode.

    Raises:
        ValueError: a tensor of the case has no place in the model, or one of the model's is not in it.
    """
    model = empty_model(case.shape, attention)
    load_vocabulary(model, case.verifier["draft_ids"])
    head = case.head[case.verifier["draft_ids"]]  # [Vd, H]
    frozen = {
        "embed_tokens.weight": case.verifier["embedding"],
        "lm_head.weight": head,
        "verifier_lm_head.weight": head,
        "verifier_norm.weight": case.verifier["final_norm"],
    }
    result = model.load_state_dict({**case.draft, **frozen}, strict=False)
    missing = set(result.missing_keys) - {"t2d", "d2t"}
    if missing or result.unexpected_keys:
        raise ValueError(f"not in the case: {missing}; not in the model: {result.unexpected_keys}")
    return model.train()


def shifted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reference's rows (x[i+1], g[i], y[i+1], l[i+1]), each document shifted on its own.

    ``l[i]`` decides whether the verifier's opinion ``y[i]``, which is about token i + 1, is taught;
    so it is ``supervised[i + 1]`` here, and false where token i + 1 belongs to another document.
    """
    documents = batch["document_ids"]
    rows = torch.nonzero(documents[:-1] == documents[1:]).squeeze(1)  # [R] all but each document's last
    taught = torch.zeros_like(batch["supervised"])  # [S]
    taught[rows] = batch["supervised"][rows + 1]
    fields = {
        "input_ids": batch["token_ids"][rows + 1],
        "hidden_states": batch["hidden_states"][rows, :-1].flatten(1),  # [R, A*H]
        "verifier_last_hidden_states": batch["hidden_states"][rows + 1, -1],  # [R, H]
        "loss_mask": taught[rows + 1],
        "position_ids": batch["positions"][rows + 1],
        "document_ids": documents[rows],
    }
    return {name: tensor[None].contiguous() for name, tensor in fields.items()}


def forward(
    model: Eagle3DraftModel, rows: dict[str, torch.Tensor], steps: int, step_decay: float, loss: str = "eager"
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss [] and metrics of one batch."""
    _, total, metrics = model(
        **rows,
        ttt_steps=steps,
        ttt_step_loss_decay=step_decay,
        loss_config=resolve_loss_config("kl_div", loss),
    )
    return total, metrics


def gradients(model: Eagle3DraftModel) -> dict[str, torch.Tensor]:
    """Of every trained parameter, by its checkpoint name."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
