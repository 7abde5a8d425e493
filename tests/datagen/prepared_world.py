"""A small real verifier, and a dataset as the reference system prepares one for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speculators.documents import write_jsonl
from speculators.stages.documents import StageInput, write_output
from tests.stages.test_responses import save_tokenizer

DEPTH, WIDTH = 4, 16
AUX = (1, 2)
VOCABULARY = 258
#: Three conversations: one of two turns (two rows, as the reference makes them), and two of one turn.
CONVERSATIONS = (("one?", "first", "and?", "second"), ("two?", "third"), ("what of the three?", "fourth"))
ASKED = "What does the sea do twice each day?"


def save_verifier(folder: Path) -> None:
    """A random Llama of ``DEPTH`` layers with a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.3,  # layers that differ enough to be told apart
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    save_tokenizer(folder)


def stage_inputs(root: Path) -> dict[str, Path]:
    """The finished stages before ours: verifier and prompts."""
    save_verifier(root / "verifier" / "model")
    known = {
        "facts": {"num_hidden_layers": DEPTH, "hidden_size": WIDTH, "max_position_embeddings": 128},
        "trust_remote_code": False,
    }
    write_output(StageInput("verifier", {}, {}, {}, root / "verifier"), known, 0.0)
    write_jsonl(root / "prompts" / "benchmark.jsonl", [{"messages": [{"role": "user", "content": ASKED}]}])
    return {"verifier": root / "verifier", "prompts": root / "prompts"}


def rows(model: Path) -> list[dict[str, list[int]]]:
    """A row for each answer: all that was said before it, the answer learnt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for turns in CONVERSATIONS:
        for end in range(2, len(turns) + 1, 2):
            said = [
                {"role": ("user", "assistant")[number % 2], "content": text}
                for number, text in enumerate(turns[:end])
            ]
            before, whole = (
                tokenizer.apply_chat_template(
                    messages, tokenize=True, return_dict=False, add_generation_prompt=asks
                )
                for messages, asks in ((said[:-1], True), (said, False))
            )
            mask = [0] * len(before) + [1] * (len(whole) - len(before))
            found.append({"input_ids": whole, "loss_mask": mask})
    return found


def save_rows(folder: Path, found: Sequence[dict[str, list[int]]]) -> None:
    """The rows as ``prepare-data`` saves them."""
    from datasets import Dataset

    columns: dict[str, Any] = {name: [row[name] for row in found] for name in ("input_ids", "loss_mask")}
    columns["seq_len"] = [len(row["input_ids"]) for row in found]
    Dataset.from_dict(columns).with_format("torch").save_to_disk(str(folder))


def save_states(
    folder: Path, model: Path, numbered: dict[int, list[int]], layers: Sequence[int] = (*AUX, DEPTH)
) -> None:
    """A file of states of ``layers`` for each numbered row of ids, as vLLM's connector writes it."""
    from speculators.datagen.probe import reference_model, states_of
    from speculators.datagen.shards import Document

    documents = [
        Document("", "", "", False, 0, torch.tensor(ids), torch.empty(0)) for ids in numbered.values()
    ]
    (folder / "hidden_states").mkdir(parents=True, exist_ok=True)
    for number, document, known in zip(numbered, documents, states_of(reference_model(model), documents)):
        states = known.layers[list(layers)].transpose(0, 1).to(torch.bfloat16).contiguous()  # [T, L, H]
        save_file(
            {"hidden_states": states, "token_ids": document.token_ids},
            folder / "hidden_states" / f"hs_{number}.safetensors",
        )


def save_prepared(folder: Path, model: Path, layers: Sequence[int] = (*AUX, DEPTH)) -> None:
    """The whole dataset."""
    found = rows(model)
    save_rows(folder, found)
    save_states(folder, model, {number: row["input_ids"] for number, row in enumerate(found)}, layers)


def values(**datagen: Any) -> dict[str, Any]:
    """The recipe values that the stage reads."""
    prompts = {"limit": None, "validation_fraction": 0.3, "seed": 0}
    return {
        "algorithm": {"aux_layers": list(AUX)},
        "datagen": {"rows_per_shard": 2, "looping_rows": "keep", "prompts": prompts, **datagen},
    }
