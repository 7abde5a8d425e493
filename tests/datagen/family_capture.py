"""Which families can be captured with vLLM here, and are its states transformers' own?

    python -m tests.datagen.family_capture [FAMILY ...]

Captures every layer of a tiny random verifier of each family with the installed engine, and compares with
transformers as a run's golden probe does.  A family that the engine does not run is captured by transformers
alone: the line says why.  Multimodal ones are captured by their text decoder, which is what a draft reads;
their image towers need torchvision, which the CPU environment does not have.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from speculators.datagen.capture import CaptureRow, capture_documents
from speculators.datagen.probe import references
from speculators.datagen.shards import Document
from tests.checkpoint.test_verifier_families import EXPERTS, SIZES, build
from tests.checkpoint.test_verifier_families import qwen3_vl as small_qwen3_vl

#: Sizes that the CPU engine's attention computes.
WIDE: dict[str, Any] = {
    **SIZES, "hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 4, "max_position_embeddings": 256,
}  # fmt: skip
LAYERS = (1, 2, 3, 4)
MOE: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
FULL = {"layer_types": ["full_attention"] * 4}


def qwen3_vl() -> Any:
    """Whole, because transformers has no language model of its text decoder alone."""
    config = small_qwen3_vl()
    return transformers.Qwen3VLConfig(
        text_config={**config.text_config.to_dict(), **WIDE}, vision_config=config.vision_config.to_dict()
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "Llama 3": lambda: transformers.LlamaConfig(**WIDE),
    "Llama 4": lambda: transformers.Llama4TextConfig(**WIDE, **EXPERTS, intermediate_size_mlp=48),
    "Qwen3": lambda: transformers.Qwen3Config(**WIDE),
    "Qwen3-MoE": lambda: transformers.Qwen3MoeConfig(**WIDE, **MOE),
    "Qwen3-VL": qwen3_vl,
    "gpt-oss": lambda: transformers.GptOssConfig(**WIDE, **EXPERTS, **FULL),
    "Mistral 3": lambda: transformers.MistralConfig(**WIDE),
    "Gemma 3": lambda: transformers.Gemma3TextConfig(**WIDE, **FULL),
}
ENGINE = {"max_model_len": 64, "dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": "64M",
          "max_num_seqs": 4}  # fmt: skip
NEAR = 1e-4  # of a layer's norm


def rows() -> list[CaptureRow]:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(3, WIDE["vocab_size"], (3, 20), generator=generator).tolist()
    return [CaptureRow(f"r{n}", "g", "train", False, ids[:8], ids[8:]) for n, ids in enumerate(draws)]


def largest_error(folder: Path, scratch: Path) -> float:
    """Of all captured states, relative to the norm of their layer."""
    captured: list[Document] = list(
        capture_documents(folder, rows(), LAYERS, ENGINE, scratch, skip_tokenizer_init=True)
    )
    error = 0.0
    for ours, theirs in zip(captured, references(folder, captured), strict=True):
        layers = theirs.layers[list(LAYERS)].transpose(0, 1)  # [T, L, H]
        off = (ours.hidden_states.float() - layers).norm(dim=(0, 2)) / layers.norm(dim=(0, 2))  # [L]
        error = max(error, float(off.max()))
    return error


def said(family: str) -> str:
    """The family's line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        build(FAMILIES[family]()).save_pretrained(folder)
        try:
            error = largest_error(folder, Path(scratch, "states"))
        except Exception as cause:  # whatever keeps an engine from a family is the answer
            return f"by transformers: {type(cause).__name__}: {str(cause).strip().splitlines()[-1][:160]}"
    return f"by vLLM, equal to transformers: {error:.1e}" if error < NEAR else f"DIFFERS by {error:.1e}"


def main(families: list[str]) -> int:
    differs = False
    for family in families or FAMILIES:
        line = said(family)
        print(f"{family:12} {line}", flush=True)
        differs |= line.startswith("DIFFERS")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
