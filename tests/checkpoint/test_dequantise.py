"""A quantised head comes back as the numbers that its quantiser's own code computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.dequantise import dequantised
from speculators.checkpoint.verifier_weights import load_verifier_weights
from tests.models import tiny

ROWS, COLUMNS, GROUP = 48, 64, 16


def matrix(seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def whole_numbers(rows: int, columns: int, below: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(below, (rows, columns), generator=generator, dtype=torch.int32)


@pytest.mark.parametrize(
    ("shape", "block"),
    [((), None), ((ROWS,), None), ((ROWS, 1), None), ((ROWS, 4), None), ((2, 2), [32, 32])],
)
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
def test_float8_is_multiplied_by_its_scale(
    shape: tuple[int, ...], block: list[int] | None, name: str
) -> None:
    stored = matrix().to(torch.float8_e4m3fn)
    scale = torch.rand(shape) + 0.5
    config = {"quant_method": "fp8", "weight_block_size": block} if block else {}
    weight = dequantised({"weight": stored, name: scale}, config, "lm_head.weight")
    for row, column in ((0, 0), (31, 31), (32, 32), (47, 63)):
        place: Any = {0: (), 1: (row,)}.get(len(shape))
        if place is None:
            place = (row // 32, column // 32) if block else (row, column // (COLUMNS // shape[1]))
        assert weight[row, column] == stored[row, column].float() * scale[place]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, GROUP), (4, None), (8, GROUP)])
def test_compressed_tensors_agree_with_the_librarys_own_decompression(
    bits: int, group: int | None, symmetric: bool
) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    scheme = quantization.QuantizationScheme(
        targets=["Linear"],
        weights=quantization.QuantizationArgs(
            num_bits=bits, symmetric=symmetric, strategy="group" if group else "channel", group_size=group
        ),
    )
    groups = COLUMNS // group if group else 1
    state = {
        "weight": matrix(),
        "weight_scale": torch.rand(ROWS, groups) * 0.1 + 0.2,
        "weight_zero_point": torch.zeros(ROWS, groups, dtype=torch.int8),
    }
    if not symmetric:
        state["weight_zero_point"] = whole_numbers(ROWS, groups, below=5).to(torch.int8) - 2
    compressor = compressors.BaseCompressor.get_value_from_registry("pack-quantized")
    packed = compressor.compress(state, scheme)
    expected = compressor.decompress(dict(packed), scheme)["weight"]
    assert torch.equal(dequantised(packed, {}, "lm_head.weight"), expected)


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("ordered", [False, True])
def test_gptq_is_unpacked_as_vllm_packs_it(version: str, ordered: bool) -> None:
    packing = pytest.importorskip("vllm.model_executor.layers.quantization.utils.quant_utils")
    numbers, zeros = whole_numbers(COLUMNS, ROWS), whole_numbers(COLUMNS // GROUP, ROWS, below=15)
    scales = torch.rand(COLUMNS // GROUP, ROWS) + 0.1
    group = torch.arange(COLUMNS) // GROUP
    if ordered:
        group = group[torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(2))]
    stored_zeros = zeros if version == "gptq_v2" else zeros - 1
    parts = {
        "qweight": packing.gptq_pack(numbers, 4, COLUMNS, ROWS),
        "qzeros": packing.pack_cols(stored_zeros & 15, 4, COLUMNS // GROUP, ROWS),
        "scales": scales,
        "g_idx": group.int(),
    }
    config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": version}
    zeros = zeros if version == "gptq_v2" else (zeros - 1 & 15) + 1
    expected = ((numbers - zeros[group]) * scales[group]).T
    assert torch.equal(dequantised(parts, config, "lm_head.weight"), expected)


def test_awq_is_unpacked_as_vllm_packs_it() -> None:
    packing = pytest.importorskip("vllm.model_executor.layers.quantization.utils.quant_utils")
    numbers, zeros = whole_numbers(COLUMNS, ROWS), whole_numbers(COLUMNS // GROUP, ROWS)
    scales = torch.rand(COLUMNS // GROUP, ROWS) + 0.1
    parts = {
        "qweight": packing.awq_pack(numbers, 4, COLUMNS, ROWS),
        "qzeros": packing.awq_pack(zeros, 4, COLUMNS // GROUP, ROWS),
        "scales": scales,
    }
    group = torch.arange(COLUMNS) // GROUP
    expected = ((numbers - zeros[group]) * scales[group]).T
    assert torch.equal(dequantised(parts, {"quant_method": "awq"}, "lm_head.weight"), expected)


@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors"])
def test_4_bit_floats_are_sixteen_values_times_two_scales(layout: str) -> None:
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    codes = whole_numbers(ROWS, COLUMNS)
    signs = torch.where(codes < 8, 1.0, -1.0)
    scale = (torch.rand(ROWS, COLUMNS // 16) + 0.5).to(torch.float8_e4m3fn)
    expected = signs * values[(codes % 8).long()] * (scale.float() * 0.25).repeat_interleave(16, dim=1)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    whole = {"weight": packed, "weight_scale_2": torch.tensor(0.25)}
    if layout == "compressed-tensors":
        whole = {"weight_packed": packed, "weight_global_scale": torch.tensor(4.0)}
    assert torch.equal(dequantised({**whole, "weight_scale": scale}, {}, "lm_head.weight"), expected)


def test_a_verifier_whose_layers_are_quantised_but_not_its_ends_is_read_as_it_is(tmp_path: Path) -> None:
    """The common case: MXFP4, GPTQ, AWQ and most FP8 checkpoints leave the ends alone."""
    folder = tiny.write_verifier(tmp_path / "v")
    plain = load_verifier_weights(folder)
    document = json.loads((folder / "config.json").read_text())
    document["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(document))
    experts = {"model.layers.0.mlp.experts.gate_up_proj_blocks": torch.zeros(2, 4, 2, 16, dtype=torch.uint8)}
    save_file({**load_file(folder / "model.safetensors"), **experts}, folder / "model.safetensors")
    loaded = load_verifier_weights(folder)
    assert torch.equal(loaded.head, plain.head)
    assert loaded.head.dtype == torch.bfloat16


def test_a_verifier_with_a_float8_head_gives_the_logits_of_its_stored_numbers(tmp_path: Path) -> None:
    folder = tiny.write_verifier(tmp_path / "v", dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    head = tensors.pop("lm_head.weight")
    scale = head.abs().amax(dim=1, keepdim=True) / 448  # [V, 1]
    stored = (head / scale).to(torch.float8_e4m3fn)
    quantised = {
        "lm_head.weight": stored,
        "lm_head.weight_scale": scale,
        "lm_head.input_scale": torch.ones(()),
    }
    save_file({**tensors, **quantised}, folder / "model.safetensors")
    loaded = load_verifier_weights(folder)
    states = torch.randn(5, 16)
    assert torch.equal(loaded.logits(states), loaded.normed(states) @ (stored.float() * scale).T)
    assert (loaded.head - head).abs().max() < 0.1 * head.abs().max()
