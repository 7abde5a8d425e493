"""What a draft computes by, and a conversion could lose without a word: written, or the draft refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.check import failures
from speculators.checkpoint.validate import validate
from speculators.convert.plan import Options
from speculators.convert.proof import prove
from speculators.convert.run import Conversion, Request, convert
from speculators.convert.source import MASK_NAME, open_source
from speculators.errors import StageError
from speculators.inspection.draft import inspect_draft
from tests.convert import sources


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    return sources.verifier(tmp_path / "verifier")


def run(source: Path, verifier: Path) -> Conversion:
    done = convert(Request(str(source), str(verifier)), source.parent / "converted")
    assert done.proof is not None
    assert done.proof.tokens == 1.0
    return done


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object] | None = None) -> dict:
    stored = load_file(folder / "model.safetensors")
    if change is not None:
        change(stored)
        whole = {name: tensor.contiguous() for name, tensor in stored.items()}
        save_file(whole, folder / "model.safetensors")
    return stored


def said(folder: Path, **changes: Any) -> Path:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **changes}))
    return folder


def biased(names: str, first: str = "layers.0.self_attn") -> Callable[[dict[str, torch.Tensor]], object]:
    """Biases of these projections, of the sizes of ``sources``: four heads and two keys of 8, width 16."""
    sizes = {"q": 32, "k": 16, "v": 16, "o": 16}
    return lambda found: found.update(
        {f"{first}.{name}_proj.bias": torch.rand(sizes[name]) for name in names}
    )


@pytest.mark.parametrize("stored", ["qkv", "qkvo"])
@pytest.mark.parametrize("layout", [sources.nvidia, sources.eagle1, sources.dflash])
def test_a_bias_of_o_proj_is_there_wherever_engines_have_one(
    layout: Callable[[Path], Path], stored: str, tmp_path: Path, verifier: Path
) -> None:
    """vLLM's Llama and DFlash layers make one beside those of q, k and v, and notice no missing tensor."""
    source = layout(tmp_path / "source")
    layers = 2 if layout is sources.dflash else 1
    for index in range(layers):
        tensors(source, biased(stored, f"layers.{index}.self_attn"))
    done = run(source, verifier)
    assert done.plan.document["transformer_layer_config"]["attention_bias"] is True
    written, given = tensors(source.parent / "converted"), tensors(source)
    for index in range(layers):
        name = f"layers.{index}.self_attn.o_proj.bias"
        assert torch.equal(written[name], given.get(name, torch.zeros(16)))
    assert done.checks
    tensors(source.parent / "converted", lambda found: found.pop("layers.0.self_attn.o_proj.bias"))
    assert [one.name for one in failures(validate(source.parent / "converted"))] == ["no tensor missing"]
    found = {one.name for one in inspect_draft(source, verifier).defects}
    made = {"biases as engines have them"} if stored == "qkv" else set()
    assert found == {"flags where engines read them"} | made


@pytest.mark.parametrize("stored", [False, True])
def test_biases_of_an_mlp_are_said_where_they_are_stored(
    stored: bool, tmp_path: Path, verifier: Path
) -> None:
    source = said(sources.nvidia(tmp_path / "source"), mlp_bias=not stored)
    if stored:
        sizes = {"gate": 24, "up": 24, "down": 16}
        more = {f"layers.0.mlp.{name}_proj.bias": torch.rand(size) for name, size in sizes.items()}
        tensors(source, lambda found: found.update(more))
    assert run(source, verifier).plan.document["transformer_layer_config"]["mlp_bias"] is stored
    assert [one.what for one in inspect_draft(source, verifier).defects] == [
        f"mlp_bias is {stored}, and read as {not stored}"
    ]


@pytest.mark.parametrize(
    ("ids", "sound"),
    [
        (torch.zeros(sources.VOCAB, dtype=torch.int64), True),
        (torch.arange(sources.VOCAB, dtype=torch.int32), True),
        (torch.arange(sources.VOCAB).flip(0), False),
        (sources.DRAFT_IDS, False),
    ],
)
def test_a_map_of_every_token_must_lead_each_to_itself(
    ids: torch.Tensor, sound: bool, tmp_path: Path, verifier: Path
) -> None:
    source = sources.safeailab(tmp_path / "source")
    rows = {"lm_head.weight": torch.randn(sources.VOCAB, 16), "d2t": ids}
    tensors(source, lambda found: (found.update(rows), found.pop("t2d")))
    if sound:
        run(source, verifier)
        assert "d2t" not in tensors(source.parent / "converted")
    else:
        with pytest.raises(StageError, match="a row for each of 50 tokens, but d2t leads to others"):
            run(source, verifier)


WINDOWS = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 8}
OWN = {"mask_token_id": 49, "target_layer_ids": [1, 5, 8]}


@pytest.mark.parametrize(
    ("changes", "causal"),
    [
        ({}, False),
        ({"layer_types": ["full_attention"] * 2}, False),
        (WINDOWS, True),
        ({**WINDOWS, "dflash_config": {**OWN, "causal": False}}, False),
        ({"dflash_config": {**OWN, "causal": True}}, True),
        ({"is_causal": True, "dflash_config": {**OWN, "causal": False}}, True),
        ({"is_causal": None, "dflash_config": {**OWN, "causal": None}}, False),
    ],
)
def test_a_dflash_block_is_causal_where_vllm_reads_it_so(
    changes: dict, causal: bool, tmp_path: Path, verifier: Path
) -> None:
    done = run(said(sources.dflash(tmp_path / "source"), **changes), verifier)
    assert done.plan.document["sliding_window_non_causal"] is not causal


UNSAYABLE: dict[str, tuple[dict[str, Any], str]] = {
    "windows in some layers": (
        {**WINDOWS, "layer_types": ["sliding_attention", "full_attention"]},
        "layers with a window, which are causal, beside others",
    ),
    "windows by another key": (
        {"dflash_config": {**OWN, "use_swa": True, "swa_window_size": 8}},
        "swa_window_size 8 and use_swa True",
    ),
    "scaled values": ({"dflash_config": {**OWN, "attention_value_scale": 0.5}}, "attention_value_scale 0.5"),
    "RoPE of neighbours": ({"is_neox_style": False}, "is_neox_style False"),
    "a drafted anchor": ({"dflash_config": {**OWN, "sample_from_anchor": True}}, "sample_from_anchor True"),
    "no auxiliary states": ({"use_aux_hidden_state": False}, "use_aux_hidden_state False"),
    "a mask of its own": ({}, f"{MASK_NAME}, an embedding of unknown tokens"),
}


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_the_format_cannot_say_of_a_dflash_draft_is_no_defect_and_not_converted(
    case: str, tmp_path: Path, verifier: Path
) -> None:
    changes, complaint = UNSAYABLE[case]
    source = said(sources.dflash(tmp_path / "source"), **changes)
    if not changes:
        torch.save({"embedding": torch.ones(16)}, source / MASK_NAME)
    with pytest.raises(StageError, match=complaint) as refused:
        run(source, verifier)
    assert "vLLM serves it as it is" in refused.value.hint
    assert not (tmp_path / "converted").exists()
    found = inspect_draft(source, verifier)
    assert [(one.name, one.is_defect) for one in found.findings] == [("format can say it", False)]


def test_values_that_mean_nothing_else_are_no_loss(tmp_path: Path, verifier: Path) -> None:
    own = {**OWN, "use_swa": False, "attention_value_scale": 1.0, "sample_from_anchor": None}
    run(said(sources.dflash(tmp_path / "source"), dflash_config=own, is_neox_style=True), verifier)


@pytest.mark.parametrize("layout", [sources.safeailab, sources.eagle1, sources.dflash])
def test_the_scale_of_logits_stays(layout: Callable[[Path], Path], tmp_path: Path, verifier: Path) -> None:
    done = run(said(layout(tmp_path / "source"), logit_scale=0.25), verifier)
    assert done.plan.document["transformer_layer_config"]["logit_scale"] == 0.25


@pytest.mark.parametrize("flags", [{}, {"norm_before_residual": True, "norm_output": True}])
def test_eagle3_of_two_layers_is_proved_through_both(flags: dict, tmp_path: Path, verifier: Path) -> None:
    source = said(sources.nvidia(tmp_path / "source"), num_hidden_layers=2, **flags)

    def deeper(found: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(8)
        for name in [one for one in found if one.startswith("layers.0.") and "hidden_norm" not in one]:
            rows, *columns = found[name].shape
            width = [16] if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) else columns
            found[name.replace("layers.0", "layers.1")] = torch.randn(rows, *width, generator=generator)

    tensors(source, deeper)
    run(source, verifier)
    tensors(source, lambda found: found["layers.1.mlp.down_proj.weight"].add_(1.0))
    with pytest.raises(StageError, match="differs by"):
        prove("eagle3", open_source(str(source)), tmp_path / "converted", Options(str(verifier), {}))


def test_a_revision_is_not_part_of_the_name_that_engines_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "ab" * 20
    sources.verifier(tmp_path / "hub" / "models--own--model" / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = sources.safeailab(tmp_path / "source")
    done = convert(Request(str(source), f"own/model@{commit}"), tmp_path / "converted")
    assert done.plan.document["speculators_config"]["verifier"]["name_or_path"] == "own/model"


def test_a_flag_inside_a_block_where_no_engine_looks_is_written_at_the_top(
    tmp_path: Path, verifier: Path
) -> None:
    block = {
        "eagle_aux_hidden_state_layer_ids": [2, 6, 9],
        "norm_before_residual": True,
        "norm_before_fc": False,
    }
    source = said(sources.nvidia(tmp_path / "source"), eagle_config=block)
    assert run(source, verifier).plan.document["norm_before_residual"] is True
    (one,) = inspect_draft(source, verifier).defects
    assert one.name == "flags where engines read them"
    assert one.what == "norm_before_residual is True, and read as False"
    said(source, norm_before_residual=True)
    assert inspect_draft(source, verifier).defects == []


def test_a_dflash_draft_keeps_the_ends_that_it_brings(tmp_path: Path, verifier: Path) -> None:
    """Engines take a draft's own before its verifier's, and share those that are equal."""
    source, ends = sources.dflash(tmp_path / "source"), ("embed_tokens.weight", "lm_head.weight")
    own = {name: torch.randn(sources.VOCAB, 16) for name in ends}
    tensors(source, lambda found: found.update(own))
    run(source, verifier)
    written = tensors(source.parent / "converted")
    assert all(torch.equal(written[name], own[name]) for name in ends)
    tensors(source, lambda found: found.update({"lm_head.weight": torch.randn(20, 16)}))
    with pytest.raises(StageError, match=r"lm_head.weight \[20, 16\], not \[50, 16\]"):
        convert(Request(str(source), str(verifier)), tmp_path / "new")
