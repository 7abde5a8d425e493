"""What tensors tell of the architecture is the format's to say: inspection knows no kind by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from speculators.checkpoint.config import VerifierName, to_document
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.weights_file import WEIGHTS_NAME, read_header
from speculators.documents import write_json
from speculators.inspection.mending import mend
from speculators.inspection.static_checks import own_checks, shown_algorithms
from speculators.training.architectures import FORMATS
from tests.models import tiny

#: Kinds whose tensors, whole or with one missing, are also another's.
ALIKE = {"eagle3": {"eagle3", "peagle"}}


def write_draft(folder: Path, kind: str) -> Path:
    """A draft with the tensors that its format calls for, written without a record of its training."""
    known = FORMATS[kind]
    config = known.config.for_verifier(tiny.FACTS, tiny.ALGORITHMS[kind])
    document = to_document(config, 3, VerifierName("org/verifier", "0" * 64, "LlamaForCausalLM"))
    folder.mkdir()
    write_json(folder / "config.json", document)
    shapes = known.tensors(document).required
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / WEIGHTS_NAME)
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_tell_the_kind_and_a_wrong_name_is_an_error(kind: str, tmp_path: Path) -> None:
    folder = write_draft(tmp_path / "draft", kind)
    tensors, metadata = read_header(folder / WEIGHTS_NAME)
    assert {row.stored_as for row in shown_algorithms(tensors)} == ALIKE.get(kind, {kind})
    for name in FORMATS:
        document = read_object(folder / "config.json") | {"speculators_model_type": name}
        found = {check.name: check for check in own_checks(document, tensors, metadata)}
        assert found["algorithm as tensors show"].ok is (name in ALIKE.get(kind, {kind}))


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("eagle3", {"norm_before_fc": True, "fc_norm": False, "norm_output": False}),
        ("peagle", {"norm_before_fc": True, "norm_before_residual": False}),
    ],
)
def test_flags_that_are_certain_are_written_for_every_kind_that_has_them(
    kind: str, flags: dict[str, bool], tmp_path: Path
) -> None:
    folder = write_draft(tmp_path / "draft", kind)
    document = read_object(folder / "config.json")
    write_json(
        folder / "config.json",
        {name: value for name, value in document.items() if name not in FORMATS[kind].flags},
    )
    mend(folder, tmp_path / "mended")
    mended = read_object(tmp_path / "mended" / "config.json")
    assert {flag: mended[flag] for flag in FORMATS[kind].flags if flag in mended} == flags
