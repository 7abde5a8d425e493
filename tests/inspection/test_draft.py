"""What ``inspect`` makes of whole drafts: nothing of sound ones, whatever kind and history they have."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speculators.convert.retarget import retarget
from speculators.inspection.draft import Inspection, inspect_draft
from tests.convert.test_retarget import write_tokenizer
from tests.inspection.faults import config, forget, good, random_like, tensors


def names(found: Inspection) -> list[str]:
    return [one.name for one in found.findings]


def turned(share: float, *ends: str):
    """Each tensor moved by ``share`` of its length, as fine-tuning and training on do."""
    noise = torch.Generator().manual_seed(1)

    def change(found: dict[str, torch.Tensor]) -> None:
        for name in ends or tuple(found):
            step = torch.randn(found[name].shape, generator=noise)
            found[name] = (found[name].float() * (1 + share * step)).to(found[name].dtype)

    return change


def test_a_draft_that_retarget_took_is_no_defect_of_its_new_verifier(tmp_path: Path) -> None:
    subject = good(tmp_path, 31)
    write_tokenizer(subject.verifier)
    finetune = tmp_path / "finetune"
    finetune.mkdir()
    for path in subject.verifier.iterdir():
        (finetune / path.name).write_bytes(path.read_bytes())
    own = load_file(finetune / "model.safetensors")
    turned(0.02)(own)
    save_file(own, finetune / "model.safetensors")
    retarget(subject.folder, str(finetune), tmp_path / "new", str(subject.verifier))
    found = inspect_draft(tmp_path / "new", finetune)
    assert found.defects == []
    ends = {"embed_tokens.weight is the verifier's", "lm_head.weight is the verifier's"}
    assert ends <= set(names(found))  # worth a look


def test_ends_that_were_both_trained_are_no_other_model(tmp_path: Path) -> None:
    subject = good(tmp_path, 32)
    tensors(turned(0.05, "embed_tokens.weight", "lm_head.weight"))(subject)
    forget(subject)
    config(embed_requires_grad=True)(subject)
    assert inspect_draft(subject.folder, subject.verifier).defects == []
    random_like("embed_tokens.weight")(subject)  # far from the verifier's, and said to be trained
    random_like("lm_head.weight")(subject)
    assert inspect_draft(subject.folder, subject.verifier).defects == []


def test_strange_rows_in_both_ends_are_another_model(tmp_path: Path) -> None:
    subject = good(tmp_path, 33)
    forget(subject)
    random_like("embed_tokens.weight")(subject)
    random_like("lm_head.weight")(subject)
    assert [one.name for one in inspect_draft(subject.folder, subject.verifier).defects] == [
        "verifier is the one meant"
    ]
