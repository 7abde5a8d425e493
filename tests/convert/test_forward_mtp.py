"""The plain forward of a native head is transformers' layer: gate, partial RoPE and experts included."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from speculators.convert.forward_mtp import NATIVE, mtp_states

HIDDEN, ROWS = 16, 7


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(x, weight.shape, 1 + weight, 1e-6)


@pytest.mark.parametrize("experts", [0, 4])
def test_it_is_what_transformers_computes(experts: int) -> None:
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    config = modeling.Qwen3NextConfig(
        hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=1, layer_types=["full_attention"],
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=experts,
        num_experts_per_tok=2,
        moe_intermediate_size=12, shared_expert_intermediate_size=12, decoder_sparse_step=1,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
        mlp_only_layers=[], norm_topk_prob=True,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    layer = modeling.Qwen3NextDecoderLayer(config, 0).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {f"mtp.layers.0.{name}": tensor.detach() for name, tensor in layer.state_dict().items()}
    weights["mtp.fc.weight"] = torch.randn(HIDDEN, 2 * HIDDEN) * 0.3
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        weights[f"mtp.{name}.weight"] = torch.randn(HIDDEN) * 0.3
    states, embedded = torch.randn(ROWS, HIDDEN), torch.randn(ROWS, HIDDEN)
    both = [
        norm(embedded, weights["mtp.pre_fc_norm_embedding.weight"]),
        norm(states, weights["mtp.pre_fc_norm_hidden.weight"]),
    ]
    x = torch.cat(both, dim=-1) @ weights["mtp.fc.weight"].T
    places = torch.arange(ROWS)[None]
    turns = modeling.Qwen3NextRotaryEmbedding(config)(x[None], places)
    mask = torch.full((ROWS, ROWS), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        theirs = layer(x[None], position_embeddings=turns, attention_mask=mask)
    theirs = norm(theirs[0] if isinstance(theirs, tuple) else theirs, weights["mtp.norm.weight"]).squeeze(0)
    ours = mtp_states(weights.get, NATIVE, config.to_dict(), states, embedded)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(KeyError, match=r"mtp\.pre_fc_norm_embedding"):
        mtp_states({}.get, NATIVE, {"rms_norm_eps": 1e-6}, torch.zeros(1, 4), torch.zeros(1, 4))
