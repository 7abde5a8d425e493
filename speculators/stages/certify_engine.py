"""Stage ``certify_engine``: does the engine hand out the states and tokens that it should?

The golden probe of ``hidden_states`` on a small random model, which needs no download: captured layers
against transformers, the last state's best token against the engine's own.  Every run asks the same of
its real verifier, when its responses are paid for; this one takes a minute and is asked before.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch

from speculators.datagen import probe
from speculators.datagen.capture import CaptureRow, capture_engine
from speculators.serving.environment import has_cpu_engine
from speculators.stages.documents import StageInput

#: A Llama of four layers whose heads every attention kernel knows.
SHAPE = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256,
}  # fmt: skip
LAYERS = [1, 2, 3, SHAPE["num_hidden_layers"]]
PROMPT_TOKENS = (5, 40)  # from, to
ARGUMENTS: dict[str, Any] = {
    "max_model_len": 128, "max_num_seqs": 8, "enforce_eager": True, "skip_tokenizer_init": True,
}  # fmt: skip
CPU_ARGUMENTS = {"dtype": "float32", "kv_cache_memory_bytes": "64M"}
GPU_ARGUMENTS = {"dtype": "bfloat16", "gpu_memory_utilization": 0.3}


def run(step: StageInput) -> dict[str, Any]:
    """The probe's findings as checks."""
    started, cpu = time.monotonic(), has_cpu_engine()
    model = step.work / "model"
    write_model(model, torch.float32 if cpu else torch.bfloat16)
    arguments = ARGUMENTS | (CPU_ARGUMENTS if cpu else GPU_ARGUMENTS) | step.values["engine"]["args"]
    with capture_engine(model, LAYERS, arguments, step.work / "scratch") as engine:
        documents = probe.capture_probe(engine, rows())
    expected = list(probe.references(model, documents))
    tolerance = probe.TOLERANCES[documents[0].hidden_states.dtype]
    matches = probe.layer_matches(documents, expected, LAYERS)
    greedy = probe.greedy_match(documents, expected, tolerance.tie)
    problems = probe.problems(documents, matches, greedy, tolerance)
    wrong = probe.state_problems(documents, matches, greedy, tolerance)
    errors = [match.error for match in matches]
    checks = [
        {"name": "captured layers against transformers", "ok": not wrong,
         "error": max(errors) if all(map(math.isfinite, errors)) else None,
         "bound": tolerance.relative, "cause": "; ".join(wrong)},
        {"name": "engine's own tokens from the last state", "ok": greedy.share >= probe.GREEDY_SHARE,
         "error": 1 - greedy.share, "bound": 1 - probe.GREEDY_SHARE, "cause": ""},
    ]  # fmt: skip
    for check in checks:
        told = check["cause"] or f"{check['error']:.2g} (at most {check['bound']:.2g})"
        print(f"{check['name']}: {told}", flush=True)
    return {
        "device": "cpu" if cpu else "cuda",
        "name": "CPU" if cpu else torch.cuda.get_device_name(),
        "checks": checks,
        "problems": problems,
        "not_checked": [],
        "seconds": time.monotonic() - started,
    }


def write_model(folder: Path, dtype: torch.dtype) -> None:
    """A small Llama with random weights, whose logits are far enough apart to have a best token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(**SHAPE, tie_word_embeddings=False, eos_token_id=None, bos_token_id=None)
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.to(dtype).save_pretrained(folder)
    # What transformers says of generation is about tokens that this model does not have.
    (folder / "generation_config.json").write_text(json.dumps({}))


def rows() -> list[CaptureRow]:
    """Random prompts of different lengths."""
    draw = random.Random(0)
    return [
        CaptureRow(
            f"random-{number}", "", "train", False,
            [draw.randrange(SHAPE["vocab_size"]) for _ in range(draw.randint(*PROMPT_TOKENS))], [],
        )
        for number in range(probe.PROMPTS)
    ]  # fmt: skip
