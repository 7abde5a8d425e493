"""Real incidents, rebuilt as broken checkpoints: ``inspect`` must name what was wrong.

Each is one that users reported or that a public checkpoint shows; ``threads`` says where.  Checkpoints are
tiny and random, and a stranger's: no file has a record of its training.

    python -m tests.inspection.incidents
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.config import to_document
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.inspection.draft import inspect_draft
from speculators.inspection.findings import Finding
from speculators.training.architectures import FORMATS
from tests.convert import sources
from tests.inspection.faults import (
    IDS,
    NAME,
    Subject,
    config,
    forget,
    good,
    layer,
    random_like,
    stale_map,
    tensors,
    without,
)
from tests.models import tiny

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}


class Incident(NamedTuple):
    """``threads``: where it was reported; ``cause``: the finding that names it, all that it must be among."""

    threads: str
    story: str
    build: Callable[[Path], Subject]
    cause: str
    defect: bool = True  # else no more than worth a look: without running it nobody can be sure


def native(*breakings: Callable[[Subject], object]) -> Callable[[Path], Subject]:
    """A stranger's checkpoint in the format, broken."""

    def build(root: Path) -> Subject:
        subject = good(root, seed=11)
        forget(subject)
        for breaking in breakings:
            breaking(subject)
        return subject

    return build


def dflash(*breakings: Callable[[Subject], object]) -> Callable[[Path], Subject]:
    """A stranger's DFlash checkpoint in the format, broken."""

    def build(root: Path) -> Subject:
        subject = Subject(root / "draft", tiny.write_verifier(root / "verifier"), 0)
        objective = tiny.of_kind("dflash", 3, torch.float32)
        state, ids = objective.draft.state_dict(), objective.verifier.draft_ids
        found = assemble(state, ids, tiny.weights(dtype=torch.bfloat16), FORMATS["dflash"].copies)
        write_checkpoint(subject.folder, to_document(objective.draft.config, 3, NAME), found)
        forget(subject)
        for breaking in breakings:
            breaking(subject)
        return subject

    return build


def foreign(
    make: Callable[[Path], Path], *breakings: Callable[[Subject], object]
) -> Callable[[Path], Subject]:
    """A checkpoint in another trainer's layout, broken."""

    def build(root: Path) -> Subject:
        subject = Subject(make(root / "draft"), sources.verifier(root / "verifier"), 0)
        for breaking in breakings:
            breaking(subject)
        return subject

    return build


def verifier(**changes: Any) -> Callable[[Subject], None]:
    return lambda subject: config(**changes)(subject._replace(folder=subject.verifier))


def deeper(depth: int, *ids: int) -> tuple[Callable[[Subject], None], Callable[[Subject], None]]:
    return verifier(num_hidden_layers=depth), config(**{IDS: list(ids)})


def padded_verifier(subject: Subject) -> None:
    """Embedding and head rows were padded to a round number after the draft was made."""
    path = subject.verifier / "model.safetensors"
    found = load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found[name] = torch.cat([found[name], torch.zeros(14, 16, dtype=found[name].dtype)])
    save_file(found, path)
    verifier(vocab_size=64)(subject)


def verifier_alone(root: Path) -> Subject:
    """A release whose config promises a head that its files do not have."""
    folder = sources.verifier(root / "model", num_nextn_predict_layers=1)
    return Subject(folder, folder, 0)


def fc_norms(found: dict[str, torch.Tensor]) -> None:
    del found["input_norm.weight"]
    found |= {f"fc_norm.{index}.weight": torch.rand(16) for index in range(3)}


def first_norm(found: dict[str, torch.Tensor]) -> None:
    found["layers.0.input_layernorm.weight"] = torch.rand(16)


INCIDENTS = (
    Incident("speculators#574", "a converter lost rope_scaling",
             native(verifier(rope_parameters=LLAMA3)), "RoPE is the verifier's", defect=False),
    Incident("speculators#613, #738", "partial_rotary_factor was ignored",
             native(verifier(partial_rotary_factor=0.5)), "RoPE is the verifier's", defect=False),
    Incident("NeMo Automodel#2399, speculators#921", "the draft of a YaRN verifier has plain RoPE",
             native(verifier(rope_parameters=YARN)), "RoPE is the verifier's", defect=False),
    Incident("vLLM#48894", "requests behind the draft's 2048 positions crashed",
             native(layer(max_position_embeddings=64)), "reaches as far as its verifier", defect=False),
    Incident("TorchSpec#38", "a random embed_tokens was saved; SGLang hides it",
             native(random_like("embed_tokens.weight")), "embed_tokens.weight is the verifier's"),
    Incident("NeMo Automodel#2841 (class)", "vLLM knew no class of the name that the trainer wrote",
             foreign(sources.nemo), "engine knows the class"),
    Incident("NeMo Automodel#2841 (names)", "every tensor had a prefix that vLLM adds itself",
             foreign(lambda path: sources.nemo(path, "LlamaForCausalLMEagle3")),
             "names as engines read them"),
    Incident("speculators#456, vLLM#43671", "layer outputs counted from zero, in the format: 45 % -> 10 %",
             native(*deeper(36, 1, 17, 32)), "layer id convention"),
    Incident("SGLang#25454, TorchSpec#87", "two conventions of layer ids, told apart by the first id",
             foreign(sources.specforge), "layer ids as vLLM reads them", defect=False),
    Incident("llama.cpp#26275", "ids that fit neither convention's default",
             foreign(lambda path: sources.nvidia(path, (1, 4, 8))), "layer ids can be told", defect=False),
    Incident("vLLM#11126, #6830", "an EAGLE head with fc.bias, which vLLM drops",
             foreign(sources.eagle1, tensors(lambda t: t.update({"fc.bias": torch.ones(16)}))),
             "no unknown tensor"),
    Incident("nm-testing/hass-llama3.1-8b-layernorms",
             "a HASS head with norms that vLLM's class does not have",
             foreign(sources.eagle1, tensors(first_norm)), "layout complete"),
    Incident("vLLM#38111", "norm_before_fc was not exported: input_norm is there, the flag is not",
             native(without("norm_before_fc")), "flags explicit"),
    Incident("vLLM#46488, #42764", "fc_norm tensors, and a config that knows no such flag",
             native(without("fc_norm", "norm_output"), config(norm_before_fc=False), tensors(fc_norms)),
             "flags explicit"),
    Incident("speculators#297, #313", "norm_before_residual unwritten: gpt-oss-20b 25 % instead of 40 %",
             native(without("norm_before_residual")), "flags explicit"),
    Incident("verl-SpeCo#67", "d2t defaults to counting, which doubles every id",
             native(tensors(lambda t: t.update(d2t=torch.arange(20)))), "d2t filled in"),
    Incident("verl-SpeCo#66", "the map is missing: the draft says the first ids",
             native(tensors(lambda t: [t.pop("d2t"), t.pop("t2d")])), "no tensor missing"),
    Incident("SpecForge#272", "absolute ids where engines read offsets",
             foreign(sources.safeailab, tensors(lambda t: t.update(d2t=sources.DRAFT_IDS))),
             "d2t holds offsets"),
    Incident("speculators#1081, #602", "the cached map of an earlier run was packed with a new head",
             native(stale_map), "d2t fits the head"),
    Incident("vLLM#46435, vllm-ascend#11374", "152064 rows against 152576: 0 % acceptance",
             native(padded_verifier), "verifier vocabulary"),
    Incident("speculators#514, #188", "draft_vocab_size and the head's rows differ",
             native(config(draft_vocab_size=24)), "tensor shapes"),
    Incident("SGLang#32334, a mirror of Qwen3-8B-Thinking", "the layer ids are null; vLLM guesses",
             native(config(**{IDS: None})), "aux layers written", defect=False),
    Incident("vLLM#50170", "nvidia/Llama-3.3-70B-Instruct-Eagle3 names no layers: acceptance length 1.04",
             native(without(IDS)), "aux layers written", defect=False),
    Incident("a dflash2 card of a 36-layer model", "a layer id of 43",
             native(*deeper(36, 2, 18, 43)), "aux layers exist"),
    Incident("speculators#601", "a warm start without the layers of the draft it began from",
             dflash(config(aux_hidden_state_layer_ids=None)), "aux layers ascend"),
    Incident("vLLM#25883, #28435", "the verifier's quantisation was taken over by the draft",
             native(layer(quantization_config={"quant_method": "fp8"})), "no quantisation of its own"),
    Incident("vLLM#35548", "the MTP weights that the config promises are missing",
             verifier_alone, "MTP head is there"),
    Incident("SGLang#21272", "EAGLE-3 named EAGLE: an acceptance length of exactly 1.0",
             native(config(speculators_model_type="eagle")), "algorithm as tensors show"),
    Incident("NeMo Automodel#2319", "a tied head was left out, although the draft's vocabulary is reduced",
             native(tensors(lambda t: t.pop("lm_head.weight"))), "no tensor missing"),
    Incident("vLLM#25250", "a top-level model_type hides the format: served without speculation",
             native(config(model_type="speculator_model")), "format recognisable"),
    Incident("vLLM#17211", "ids of another integer type",
             native(tensors(lambda t: t.update(d2t=t["d2t"].int()))), "d2t type"),
    Incident("AvitoTech/avibe-eagle's config", "36 layers in the config, one in the file: vLLM builds 36",
             foreign(sources.specforge, config(num_hidden_layers=36)), "no tensor missing"),
)  # fmt: skip


def named(incident: Incident, root: Path) -> Finding | None:
    """The finding that names the incident's cause."""
    subject = incident.build(root)
    found = inspect_draft(subject.folder, subject.verifier).findings
    return next((one for one in found if one.name == incident.cause), None)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print("| incident | what was wrong | named | sure |\n|---|---|---|---|")
        for number, incident in enumerate(INCIDENTS):
            one = named(incident, Path(scratch) / str(number))
            told = f"{one.trap} {one.name} | {one.sure}" if one else "no | "
            print(f"| {incident.threads} | {incident.story} | {told} |")


if __name__ == "__main__":
    main()
