"""Draft shapes of published verifiers: what a recipe for them would train by default."""

from __future__ import annotations

from speculators.checkpoint.eagle3 import Eagle3Config

SHAPES = {
    "smollm2-135m": Eagle3Config(
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        max_position_embeddings=8192,
        layers=1,
        aux_layers=(2, 15, 27),
        vocab_size=49152,
        draft_vocab_size=8192,
    ),
    "qwen3-8b": Eagle3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        max_position_embeddings=40960,
        layers=1,
        aux_layers=(2, 18, 33),
        vocab_size=151936,
        draft_vocab_size=32000,
    ),
    "llama-3.3-70b": Eagle3Config(
        hidden_size=8192,
        intermediate_size=28672,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        max_position_embeddings=131072,
        layers=1,
        aux_layers=(2, 40, 77),
        vocab_size=128256,
        draft_vocab_size=32000,
    ),
}
