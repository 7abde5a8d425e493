"""Broken checkpoints from one good one: each fault changes what is drafted, or keeps it from loading.

    python -m tests.inspection.faults [SEED ...]

prints what names each, for drafts and verifiers of the seeds, by default of one that nobody chose.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from speculators.checkpoint.config import VerifierName, to_document
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.vocabulary import to_offsets
from speculators.inspection.draft import inspect_draft
from speculators.inspection.findings import Finding
from tests.models import tiny

NAME = VerifierName("local:tiny", "0" * 64, "LlamaForCausalLM")
IDS = "eagle_aux_hidden_state_layer_ids"
CONFIG = tiny.config(norm_before_residual=True, norm_output=True, head_dim=32)


class Subject(NamedTuple):
    """A checkpoint and its verifier, as a fault finds them."""

    folder: Path
    verifier: Path
    seed: int


def draft_ids(seed: int) -> torch.Tensor:
    """Some tokens, ascending, the first few side by side as in real maps."""
    order = torch.randperm(tiny.CONFIG.vocab_size - 8, generator=torch.Generator().manual_seed(seed)) + 8
    return torch.cat([torch.arange(2, 8), order[: tiny.CONFIG.draft_vocab_size - 6].sort().values])


def good(root: Path, seed: int) -> Subject:
    """What the package stage writes, for a random draft and verifier of ``seed``."""
    verifier = tiny.write_verifier(root / "verifier")
    weights = tiny.weights(dtype=torch.bfloat16)
    state = tiny.draft(CONFIG, seed=seed, dtype=torch.float32).state_dict()
    write_checkpoint(root / "draft", to_document(CONFIG, 3, NAME), assemble(state, draft_ids(seed), weights))
    return Subject(root / "draft", verifier, seed)


def forget(subject: Subject) -> None:
    """As other trainers write: a weight file without a record of its training."""
    path = subject.folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})


def edit_config(subject: Subject, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((subject.folder / "config.json").read_text())
    change(document)
    (subject.folder / "config.json").write_text(json.dumps(document))


def edit_tensors(subject: Subject, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """As an exporter would: the file's own metadata survives."""
    path = subject.folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def config(**changes: Any) -> Callable[[Subject], None]:
    return lambda subject: edit_config(subject, lambda document: document.update(changes))


def without(*keys: str) -> Callable[[Subject], None]:
    return lambda subject: edit_config(subject, lambda document: [document.pop(key) for key in keys])


def layer(**changes: Any) -> Callable[[Subject], None]:
    return lambda subject: edit_config(subject, lambda d: d["transformer_layer_config"].update(changes))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Subject], None]:
    return lambda subject: edit_tensors(subject, change)


def random_like(name: str) -> Callable[[Subject], None]:
    def change(found: dict[str, torch.Tensor]) -> None:
        found[name] = torch.randn(found[name].shape).to(found[name].dtype)

    return tensors(change)


def permuted_fc(found: dict[str, torch.Tensor]) -> None:
    low, middle, high = found["fc.weight"].chunk(3, dim=1)
    found["fc.weight"] = torch.cat([high, middle, low], dim=1)


def stale_map(subject: Subject) -> None:
    other = draft_ids(subject.seed + 1000)
    marked = torch.zeros(tiny.CONFIG.vocab_size, dtype=torch.bool).index_fill(0, other, True)
    edit_tensors(subject, lambda found: found.update(d2t=to_offsets(other), t2d=marked))


def overflow(found: dict[str, torch.Tensor]) -> None:
    found["fc.weight"] = (found["fc.weight"] * 1e39).to(torch.bfloat16)


def foreign_verifier(subject: Subject) -> None:
    weights = tiny.weights(seed=subject.seed + 77, dtype=torch.bfloat16)
    path = subject.verifier / "model.safetensors"
    own = load_file(path)
    own |= {"model.embed_tokens.weight": weights.embedding, "lm_head.weight": weights.head}
    save_file(own, path)


def write_tokenizer(folder: Path, **changes: int) -> None:
    """A tokenizer of the verifier's size; ``changes``: tokens with another id."""
    vocabulary = {f"t{number}": number for number in range(tiny.CONFIG.vocab_size)} | changes
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))


def other_tokens(subject: Subject) -> None:
    """As drafts come with a copy of their tokenizer, and verifiers in revisions."""
    write_tokenizer(subject.folder)
    write_tokenizer(subject.verifier, t7=8, t8=7)


def second_file(subject: Subject) -> None:
    shutil.copyfile(subject.folder / "model.safetensors", subject.folder / "consolidated.safetensors")


def cut(subject: Subject) -> None:
    path = subject.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


class Fault(NamedTuple):
    inject: Callable[[Subject], None]
    cause: str  # name of the finding that must be among the defects
    says: str = ""  # what the finding's text must hold


ROPE = {"rope_type": "default", "rope_theta": 5e5}
AS_TRAINED = "config is as trained"

FAULTS = {
    "ids one layer late": Fault(config(**{IDS: [2, 3, 5]}), AS_TRAINED, IDS),
    "ids one layer early": Fault(config(**{IDS: [0, 1, 3]}), AS_TRAINED, IDS),
    "ids unsorted": Fault(config(**{IDS: [4, 2, 1]}), "aux layers ascend", "[4, 2, 1]"),
    "ids repeated": Fault(config(**{IDS: [1, 2, 2]}), "aux layers ascend", "[1, 2, 2]"),
    "ids null": Fault(config(**{IDS: None}), "aux layers written", "None"),
    "ids beyond the verifier": Fault(config(**{IDS: [1, 2, 9]}), "aux layers exist", "of 6 layers"),
    "an id too many": Fault(config(**{IDS: [1, 2, 3, 4]}), "aux count"),
    "d2t absolute": Fault(
        lambda s: edit_tensors(s, lambda t: t.update(d2t=draft_ids(s.seed))),
        "d2t holds offsets",
        "absolute ids",
    ),
    "d2t zero": Fault(tensors(lambda t: t["d2t"].zero_()), "d2t filled in"),
    "d2t counting": Fault(tensors(lambda t: t.update(d2t=torch.arange(20))), "d2t filled in"),
    "d2t stale": Fault(stale_map, "d2t fits the head", "d2t says"),
    "d2t shifted": Fault(tensors(lambda t: t["d2t"].add_(1)), "t2d agrees"),
    "d2t missing": Fault(tensors(lambda t: t.pop("d2t")), "no tensor missing", "d2t"),
    "d2t narrow": Fault(tensors(lambda t: t.update(d2t=t["d2t"].int())), "d2t type"),
    "norm_before_residual flipped": Fault(
        config(norm_before_residual=False), AS_TRAINED, "norm_before_residual is False"
    ),
    "norm_before_residual missing": Fault(without("norm_before_residual"), "flags explicit"),
    "norm_before_fc flipped": Fault(config(norm_before_fc=False), AS_TRAINED, "norm_before_fc"),
    "norm_before_fc missing": Fault(without("norm_before_fc"), "flags explicit", "norm_before_fc"),
    "fc_norm for norm_before_fc": Fault(
        config(norm_before_fc=False, fc_norm=True), "no tensor missing", "fc_norm.0"
    ),
    "norm_output flipped": Fault(config(norm_output=False), AS_TRAINED, "norm_output is False"),
    "norm_output missing": Fault(without("norm_output"), "flags explicit", "norm_output"),
    "RoPE theta another": Fault(layer(rope_parameters=ROPE), AS_TRAINED, "rope_parameters"),
    "RoPE lost": Fault(
        lambda s: edit_config(s, lambda d: d["transformer_layer_config"].pop("rope_parameters")),
        "RoPE written",
    ),
    "RoPE scaling null": Fault(layer(rope_scaling=None), "RoPE written"),
    "norm epsilon another": Fault(layer(rms_norm_eps=1e-2), AS_TRAINED, "rms_norm_eps"),
    "vocabulary padded": Fault(layer(vocab_size=64), AS_TRAINED, "vocab_size is 64"),
    "draft vocabulary another": Fault(config(draft_vocab_size=24), "tensor shapes"),
    "embedding random": Fault(random_like("embed_tokens.weight"), "embed_tokens.weight is the verifier's"),
    "head random": Fault(random_like("lm_head.weight"), "lm_head.weight is the verifier's"),
    "head missing": Fault(tensors(lambda t: t.pop("lm_head.weight")), "no tensor missing", "lm_head.weight"),
    "fc random": Fault(random_like("fc.weight"), "fc is the trained one", "3 of 3 column blocks"),
    "fc in another order": Fault(
        tensors(permuted_fc), "fc reads its states in order", "layer 4, layer 2, layer 1"
    ),
    "fc turned": Fault(tensors(lambda t: t.update({"fc.weight": t["fc.weight"].T})), "tensor shapes"),
    "fc missing": Fault(tensors(lambda t: t.pop("fc.weight")), "no tensor missing", "fc.weight"),
    "fc with a bias": Fault(
        tensors(lambda t: t.update({"fc.bias": torch.ones(16)})), "no unknown tensor", "fc.bias"
    ),
    "overflow of bfloat16": Fault(tensors(overflow), "finite weights", "fc.weight"),
    "a second file": Fault(second_file, "one weight file"),
    "a model_type at the top": Fault(config(model_type="speculator_model"), "format recognisable"),
    "another algorithm's name": Fault(config(speculators_model_type="medusa"), "algorithm"),
    "no tokens to draft": Fault(
        lambda s: edit_config(s, lambda d: d["speculators_config"].update(proposal_methods=[])),
        "proposal and verifier named",
    ),
    "another verifier": Fault(foreign_verifier, "verifier is the one meant"),
    "a verifier of another kind": Fault(
        lambda s: config(architectures=["Qwen3ForCausalLM"])(s._replace(folder=s.verifier)),
        "verifier is the one meant",
    ),
    "another tokenizer": Fault(other_tokens, "tokenizer is the verifier's", "2 tokens differ"),
    "a quantisation that came along": Fault(
        layer(quantization_config={"quant_method": "fp8"}), "no quantisation of its own"
    ),
    "a truncated file": Fault(cut, "weights readable"),
    "half a config": Fault(lambda s: (s.folder / "config.json").write_text('{"a":'), "config readable"),  # type: ignore[arg-type, return-value] # what it returns is not used
}  # fmt: skip


def named(fault: Fault, subject: Subject) -> Finding | None:
    """The defect that names what ``fault`` did to ``subject``."""
    fault.inject(subject)
    found = inspect_draft(subject.folder, subject.verifier).defects
    return next((one for one in found if one.name == fault.cause and fault.says in one.what), None)


def main(seeds: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for seed in seeds:
            root = Path(scratch) / str(seed)
            sound = good(root / "good", seed)
            said = [one.name for one in inspect_draft(sound.folder, sound.verifier).findings]
            print(f"seed {seed}; of the good draft: {', '.join(said) or 'nothing'}")
            found = {name: named(fault, good(root / name, seed)) for name, fault in FAULTS.items()}
            for name, one in found.items():
                print(f"  {name:32} {f'{one.trap} {one.name}: {one.what}' if one else 'NOT NAMED'}"[:140])
            print(f"  {sum(one is not None for one in found.values())} of {len(found)} named")


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [random.SystemRandom().randrange(1 << 20)])
