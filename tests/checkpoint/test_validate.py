"""The validator finds what vLLM would load without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.check import failures
from speculators.checkpoint.config import VerifierName, format_of, localised, to_document
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.validate import is_finite, validate
from speculators.training.architectures import ARCHITECTURES
from tests.models import tiny

NAME = VerifierName("local:tiny", "0" * 64, "LlamaForCausalLM")


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    return tiny.write_verifier(tmp_path / "verifier")


def write(folder: Path, verifier: Path, config=tiny.CONFIG) -> Path:
    draft_ids = torch.arange(config.draft_vocab_size) * 2 + 3
    if config.draft_vocab_size == config.vocab_size:
        draft_ids = torch.arange(config.vocab_size)
    trained = tiny.draft(config, dtype=torch.float32).state_dict()
    copies = format_of(config).copies
    tensors = assemble(trained, draft_ids, tiny.weights(dtype=torch.bfloat16), copies)
    write_checkpoint(folder, localised(to_document(config, 3, NAME), verifier), tensors)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, verifier: Path) -> Path:
    return write(tmp_path / "model", verifier)


def failed(folder: Path, verifier: Path | None = None, **options: bool) -> set[str]:
    return {check.name for check in failures(validate(folder, verifier, **options))}


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def edit_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 2},
        {"norm_before_fc": False, "fc_norm": True},
        {"norm_before_fc": False, "aux_layers": (2, 5)},
        {"draft_vocab_size": 50},
    ],
)
def test_what_the_package_writes_passes_every_check(tmp_path: Path, verifier: Path, changes) -> None:
    folder = write(tmp_path / "model", verifier, tiny.config(**changes))
    checks = validate(folder, verifier)
    assert failures(checks) == []
    assert len(checks) > 20
    # The tiny head size is one that vLLM's CPU attention does not have: a warning, not a refusal.
    assert {check.name for check in checks if not check.ok} == {"head size on CPU"}


def write_kind(folder: Path, verifier: Path, kind: str, **changes: object) -> Path:
    """A random draft of ``kind`` as the package stage leaves it."""
    objective = tiny.of_kind(kind, 3, torch.float32, **changes)
    config, ids = objective.draft.config, objective.verifier.draft_ids
    tensors = assemble(
        objective.draft.state_dict(), ids, tiny.weights(dtype=torch.bfloat16), format_of(config).copies
    )
    write_checkpoint(folder, localised(to_document(config, 3, NAME), verifier), tensors)
    return folder


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_draft_of_every_kind_passes_and_misses_each_of_its_tensors(
    tmp_path: Path, verifier: Path, kind: str, layers: int
) -> None:
    folder = write_kind(tmp_path / "model", verifier, kind, layers=layers)
    assert failed(folder, verifier) == set()
    stored = load_file(folder / "model.safetensors")
    for name in stored.keys() - {"t2d", "embed_tokens.weight"}:
        save_file({key: stored[key] for key in stored.keys() - {name}}, folder / "model.safetensors")
        assert "no tensor missing" in failed(folder), name


KIND_DEFECTS: dict[str, tuple[str, Callable[[dict], object], str]] = {
    "no mask token": ("peagle", lambda d: d.pop("mask_token_id"), "mask_token_id written"),
    "a mask token beyond the vocabulary": (
        "dflash",
        lambda d: d.update(mask_token_id=50),
        "mask token exists",
    ),
    "causality left open": ("dflash", lambda d: d.pop("sliding_window_non_causal"), "flags explicit"),
    "another decoder family": (
        "dflash",
        lambda d: d["transformer_layer_config"].update(model_type="llama"),
        "decoder family",
    ),
    "no model type for vLLM's Llama reader": ("eagle", lambda d: d.pop("model_type"), "format recognisable"),
    "two depths": ("eagle", lambda d: d.update(num_hidden_layers=2), "layer keys at the top"),
    "an architecture of the speculators format": (
        "hass",
        lambda d: d.update(architectures=["EagleDraftModel"]),
        "architecture",
    ),
}


@pytest.mark.parametrize("defect", KIND_DEFECTS.values(), ids=KIND_DEFECTS.keys())
def test_a_defect_of_another_kinds_config_is_found(tmp_path: Path, verifier: Path, defect) -> None:
    kind, change, check = defect
    folder = write_kind(tmp_path / "model", verifier, kind)
    edit_config(folder, change)
    assert check in failed(folder, verifier)


def test_key_gains_that_differ_by_layer_are_a_warning_for_cpus(tmp_path: Path, verifier: Path) -> None:
    folder = write_kind(tmp_path / "model", verifier, "dflash", layers=2)
    (warning,) = [check for check in validate(folder, verifier) if check.name == "key norms on CPU"]
    assert (warning.ok, warning.severity) == (False, "warning")
    gain = load_file(folder / "model.safetensors")["layers.0.self_attn.k_norm.weight"]
    edit_tensors(folder, lambda t: t.update({"layers.1.self_attn.k_norm.weight": gain.clone()}))
    assert all(check.ok for check in validate(folder, verifier) if check.name == "key norms on CPU")


CONFIG_DEFECTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "a size in words": (
        lambda d: d["transformer_layer_config"].update(vocab_size="50"),
        "sizes plausible",
    ),
    "a flag left open": (lambda d: d.pop("norm_before_residual"), "flags explicit"),
    "a top-level model_type": (lambda d: d.update(model_type="speculator_model"), "format recognisable"),
    "an auto_map": (lambda d: d.update(auto_map={"": "config.X"}), "format recognisable"),
    "layer ids in another order": (
        lambda d: d.update(eagle_aux_hidden_state_layer_ids=[4, 2, 1]),
        "aux layers ascend",
    ),
    "a layer id twice": (lambda d: d.update(eagle_aux_hidden_state_layer_ids=[1, 2, 2]), "aux layers ascend"),
    "no layer ids": (lambda d: d.pop("eagle_aux_hidden_state_layer_ids"), "aux layers ascend"),
    "a count of aux layers that vLLM does not see": (
        lambda d: d.update(eagle_aux_hidden_state_layer_ids=[1, 2]),
        "aux count",
    ),
    "another activation": (lambda d: d["transformer_layer_config"].update(hidden_act="gelu"), "activation"),
    "no RoPE": (lambda d: d["transformer_layer_config"].pop("rope_parameters"), "RoPE written"),
    "a null rope_scaling": (
        lambda d: d["transformer_layer_config"].update(rope_scaling=None),
        "RoPE written",
    ),
    "layer types of another depth": (
        lambda d: d["transformer_layer_config"].update(layer_types=["full_attention"] * 3),
        "layer types",
    ),
    "no number of speculative tokens": (
        lambda d: d["speculators_config"].update(proposal_methods=[]),
        "proposal and verifier named",
    ),
    "no verifier": (lambda d: d["speculators_config"].pop("verifier"), "proposal and verifier named"),
    "another algorithm": (lambda d: d.update(speculators_model_type="medusa"), "algorithm"),
    "a draft vocabulary beyond the verifier's": (
        lambda d: d.update(draft_vocab_size=60),
        "draft vocabulary fits",
    ),
    "a flag without its tensor": (
        lambda d: d.update(norm_before_fc=False, fc_norm=True),
        "no tensor missing",
    ),
    "a tensor without its flag": (lambda d: d.update(norm_before_fc=False), "no unknown tensor"),
    "another head size": (lambda d: d["transformer_layer_config"].update(head_dim=16), "tensor shapes"),
}


@pytest.mark.parametrize("defect", CONFIG_DEFECTS.values(), ids=CONFIG_DEFECTS.keys())
def test_a_defect_of_the_config_is_found(checkpoint: Path, verifier: Path, defect) -> None:
    change, check = defect
    edit_config(checkpoint, change)
    assert check in failed(checkpoint, verifier)


def poison(tensors: dict) -> None:
    tensors["fc.weight"][0, 0] = torch.nan


TENSOR_DEFECTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "a missing tensor": (lambda t: t.pop("layers.0.mlp.up_proj.weight"), "no tensor missing"),
    "a missing map": (lambda t: t.pop("d2t"), "no tensor missing"),
    "a missing head of a reduced vocabulary": (lambda t: t.pop("lm_head.weight"), "no tensor missing"),
    "a verifier tensor left in": (
        lambda t: t.update({"verifier_norm.weight": torch.ones(16)}),
        "no unknown tensor",
    ),
    "a bias that vLLM drops": (lambda t: t.update({"fc.bias": torch.ones(16)}), "no unknown tensor"),
    "a turned matrix": (lambda t: t.update({"fc.weight": t["fc.weight"].T.contiguous()}), "tensor shapes"),
    "a value that is not a number": (poison, "finite weights"),
    "absolute ids in place of offsets": (
        lambda t: t.update(d2t=t["d2t"] + torch.arange(20)),
        "d2t in range",
    ),
    "a map of zeros": (lambda t: t.update(d2t=torch.zeros(20, dtype=torch.int64)), "d2t filled in"),
    "a map of arange": (lambda t: t.update(d2t=torch.arange(20)), "d2t filled in"),
    "a map that falls": (lambda t: t.update(d2t=t["d2t"].flip(0)), "d2t ascends"),
    "a map of another type": (lambda t: t.update(d2t=t["d2t"].to(torch.int32)), "d2t type"),
    "a shifted map": (lambda t: t.update(d2t=t["d2t"] + 1), "t2d agrees"),
    "head rows of other tokens": (
        lambda t: t.update({"lm_head.weight": t["lm_head.weight"].roll(1, 0)}),
        "lm_head.weight is the verifier's",
    ),
    "a random embedding": (
        lambda t: t.update({"embed_tokens.weight": torch.randn(50, 16).to(torch.bfloat16)}),
        "embed_tokens.weight is the verifier's",
    ),
}


@pytest.mark.parametrize("defect", TENSOR_DEFECTS.values(), ids=TENSOR_DEFECTS.keys())
def test_a_defect_of_the_tensors_is_found(checkpoint: Path, verifier: Path, defect) -> None:
    change, check = defect
    edit_tensors(checkpoint, change)
    assert check in failed(checkpoint, verifier)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_one_number_that_is_not_finite_is_enough(dtype: torch.dtype) -> None:
    tensor = torch.randn(40, 50).to(dtype)
    assert is_finite(tensor)
    assert is_finite(tensor[:0])
    for value in (torch.nan, torch.inf, -torch.inf):
        spoiled = tensor.clone()
        spoiled[17, 23] = value
        assert not is_finite(spoiled)


def test_a_flag_for_windows_that_an_engine_reads_for_every_layer_is_a_warning(
    tmp_path: Path, verifier: Path
) -> None:
    folder, name = write_kind(tmp_path / "model", verifier, "dflash", layers=1), "layers without a window"
    assert [check.ok for check in validate(folder, verifier) if check.name == name] == [True]
    edit_config(folder, lambda d: d.update(sliding_window_non_causal=False))
    (check,) = [check for check in validate(folder, verifier) if check.name == name]
    assert (check.ok, check.severity) == (False, "warning")
    windows = {"layer_types": ["sliding_attention"], "sliding_window": 8}
    edit_config(folder, lambda d: d["transformer_layer_config"].update(windows))
    assert [check.ok for check in validate(folder, verifier) if check.name == name] == [True]


def test_a_second_weight_file_is_found(checkpoint: Path) -> None:
    save_file({"step": torch.zeros(1)}, checkpoint / "optimizer.safetensors")
    assert failed(checkpoint) == {"one weight file"}


def test_a_stray_python_file_is_found(checkpoint: Path) -> None:
    (checkpoint / "config.py").write_text("")
    assert failed(checkpoint) == {"no Python file"}


def test_an_unreadable_weight_file_and_config_are_found(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"not a header")
    (checkpoint / "config.json").write_text("{")
    assert failed(checkpoint) == {"weights readable", "config readable"}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"hidden_size": 32}, "verifier width"),
        ({"vocab_size": 64}, "verifier vocabulary"),
        ({"num_hidden_layers": 3}, "aux layers exist"),
    ],
)
def test_another_verifier_is_found(checkpoint: Path, verifier: Path, change, check) -> None:
    document = json.loads((verifier / "config.json").read_text())
    (verifier / "config.json").write_text(json.dumps({**document, **change}))
    assert check in failed(checkpoint, verifier)


def test_a_trained_head_is_a_warning_where_it_may_be_the_drafts_own(checkpoint: Path, verifier: Path) -> None:
    edit_tensors(checkpoint, lambda t: t["lm_head.weight"][3].mul_(-1))
    assert failed(checkpoint, verifier) == {"lm_head.weight is the verifier's"}
    assert failed(checkpoint, verifier, own_ends=True) == set()
    (warning,) = [c for c in validate(checkpoint, verifier, own_ends=True) if "lm_head" in c.name]
    assert (warning.ok, warning.severity) == (False, "warning")
    assert "1 of 20 above" in warning.detail


def test_rows_that_were_rounded_are_a_warning_everywhere(checkpoint: Path, verifier: Path) -> None:
    edit_tensors(checkpoint, lambda t: t["lm_head.weight"].mul_(1.01))
    assert failed(checkpoint, verifier) == set()
    (warning,) = [c for c in validate(checkpoint, verifier) if "lm_head" in c.name]
    assert (warning.ok, warning.severity) == (False, "warning")
    assert "0 of 20 above" in warning.detail


def test_a_verifier_whose_ends_cannot_be_read_is_a_warning_for_a_draft_with_its_own(
    checkpoint: Path, verifier: Path
) -> None:
    def unlike(document: dict) -> None:
        document["model_type"] = "deepseek_v4"

    edit_config(verifier, unlike)
    assert failed(checkpoint, verifier, own_ends=True) == set()
    assert failed(checkpoint, verifier) == {"verifier's ends readable"}


def test_a_vision_language_verifier_is_read_where_it_keeps_its_language_model(
    checkpoint: Path, verifier: Path
) -> None:
    def nest(document: dict) -> None:
        text = dict(document)
        document.clear()
        document["text_config"] = text

    edit_config(verifier, nest)
    names = {check.name for check in validate(checkpoint, verifier, own_ends=True) if check.ok}
    assert {"verifier width", "verifier vocabulary"} <= names


def test_other_trainers_names_for_the_first_layer_are_known(checkpoint: Path) -> None:
    def rename(tensors: dict) -> None:
        for name in list(tensors):
            if name.startswith("layers.0."):
                tensors[name.replace("layers.0.", "midlayer.")] = tensors.pop(name)

    edit_tensors(checkpoint, rename)
    assert failed(checkpoint) == set()
