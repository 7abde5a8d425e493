"""A quantised head comes back as the numbers that its quantiser's own code computes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.dequantise import dequantised
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.errors import StageError
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


E2M1_BY_HAND = {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0, 5: 3.0, 6: 4.0, 7: 6.0}


def powers_of_two(columns: int) -> torch.Tensor:
    """E8M0 bytes for groups of 32 along K."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(100, 150, (ROWS, -(-columns // 32)), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("columns", [64, 80])
@pytest.mark.parametrize("stored_as", [torch.uint8, torch.float8_e8m0fnu])
def test_mxfp8_is_multiplied_by_powers_of_two(columns: int, stored_as: torch.dtype) -> None:
    values = torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = powers_of_two(columns)
    parts = {"weight": values, "weight_scale": scale.view(stored_as)}
    if columns % 32 and stored_as != torch.uint8:  # whose groups need not be of 32
        with pytest.raises(StageError, match="3 scales for 80 numbers"):
            dequantised(parts, {}, "lm_head.weight")
        return
    weight = dequantised(parts, {}, "lm_head.weight")
    for row in range(ROWS):
        for column in range(columns):
            expected = math.ldexp(float(values[row, column]), int(scale[row, column // 32]) - 127)
            assert float(weight[row, column]) == expected


@pytest.mark.parametrize("name", ["weight_packed", "weight"])
def test_mxfp4_is_sixteen_values_times_powers_of_two(name: str) -> None:
    codes, scale = whole_numbers(ROWS, COLUMNS), powers_of_two(COLUMNS)
    packed = torch.zeros(ROWS, COLUMNS // 2, dtype=torch.uint8)
    for column in range(COLUMNS):
        packed[:, column // 2] += (codes[:, column] * (16 if column % 2 else 1)).to(torch.uint8)
    weight = dequantised({name: packed, "weight_scale": scale}, {}, "lm_head.weight")
    assert weight.shape == (ROWS, COLUMNS)
    for row in range(ROWS):
        for column in range(COLUMNS):
            code = int(codes[row, column])
            value = E2M1_BY_HAND[code % 8] * (-1 if code > 7 else 1)
            assert float(weight[row, column]) == math.ldexp(value, int(scale[row, column // 32]) - 127)


@pytest.mark.parametrize(
    ("scheme", "layout"), [("MXFP4A16", "mxfp4-pack-quantized"), ("MXFP8A16", "mxfp8-quantized")]
)
def test_mx_formats_agree_with_the_librarys_own_decompression(scheme: str, layout: str) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    wanted = quantization.preset_name_to_scheme(scheme, ["Linear"])
    scale = torch.exp2(
        torch.randint(-4, 3, (ROWS, COLUMNS // 32), generator=torch.Generator().manual_seed(4)).float()
    )
    compressor = compressors.BaseCompressor.get_value_from_registry(layout)
    packed = compressor.compress({"weight": matrix(), "weight_scale": scale}, wanted)
    assert packed["weight_scale"].dtype == torch.uint8
    expected = compressor.decompress(dict(packed), wanted)["weight"]
    assert torch.equal(dequantised(packed, {}, "lm_head.weight"), expected.float())


def test_the_e8m0_byte_255_is_no_number() -> None:
    parts = {
        "weight": torch.ones(1, 32).to(torch.float8_e4m3fn),
        "weight_scale": torch.tensor([[255]]).to(torch.uint8),
    }
    assert dequantised(parts, {}, "lm_head.weight").isnan().all()


def test_blocks_whose_last_is_smaller_are_read_by_the_size_that_the_config_says() -> None:
    """compressed-tensors says it of groups of layers, others at the top; an even split would be wrong."""
    stored, scale = torch.ones(40, 64).to(torch.float8_e4m3fn), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    parts = {"weight": stored, "weight_scale": scale}
    groups = {"config_groups": {"group_0": {"weights": {"block_structure": [32, 32]}}}}
    for config in (groups, {"weight_block_size": [32, 32]}):
        weight = dequantised(parts, config, "lm_head.weight")
        assert [float(weight[row, 33]) for row in (0, 31, 32, 39)] == [2.0, 2.0, 4.0, 4.0]


def float8(*shape: int) -> torch.Tensor:
    return torch.ones(shape).to(torch.float8_e4m3fn)


def words(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


BYTES, SHAPE = torch.uint8, torch.tensor([8, 64])

REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "bytes for a scale that are not one for 32": (
        {"weight": float8(8, 64), "weight_scale": words(8, 1, dtype=BYTES)}, "not known"),
    "whole numbers with a scale of bytes": (
        {"weight": words(8, 64, dtype=torch.int8), "weight_scale": words(8, 2, dtype=BYTES)}, "not known"),
    "six bits a number": (
        {"weight": words(8, 48, dtype=BYTES), "weight_scale": words(8, 2, dtype=BYTES)}, "not known"),
    "four bits of bitsandbytes": ({"weight": words(256, 1, dtype=BYTES)}, "not known"),
    "a scale for more rows than there are": (
        {"weight": float8(8, 64), "weight_scale": torch.ones(3, 1)}, "3 scales for 8 numbers"),
    "blocks of unknown size": (
        {"weight": float8(40, 64), "weight_scale": torch.ones(3, 2)}, "3 scales for 40 numbers"),
    "GPTQ of 3 bits": (
        {"qweight": words(12, 32), "qzeros": words(1, 3), "scales": torch.ones(1, 32)}, "3 bits a number"),
    "GPTQ without scales": ({"qweight": words(12, 32), "qzeros": words(1, 3)}, "not known"),
    "GPTQ whose order is of another matrix": (
        {"qweight": words(8, 32), "qzeros": words(1, 4), "scales": torch.ones(1, 32), "g_idx": words(65)},
        "must match"),
    "compressed tensors of 3 bits": (
        {"weight_packed": words(8, 7), "weight_shape": SHAPE, "weight_scale": torch.ones(8, 1)},
        "64 numbers in 7 words a row"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused_with_what_is_stored(
    parts: dict[str, torch.Tensor], complaint: str
) -> None:
    with pytest.raises(StageError, match=complaint) as refused:
        dequantised(parts, {}, "lm_head.weight")
    assert refused.value.message.startswith("lm_head.weight is stored ")
    assert f"{next(iter(parts))} torch." in refused.value.message
    assert refused.value.hint


SCALED = {"weight": float8(8, 64), "weight_scale": torch.ones(8, 1)}
GROUPED = {"weight_packed": words(8, 16), "weight_shape": SHAPE, "weight_scale": torch.ones(8, 1)}
SAID = {
    "quantization_config 'x', not an object": (SCALED, "x"),
    "weight_block_size 5, not two": (SCALED, {"weight_block_size": 5}),
    "weight_block_size [128], not two": (SCALED, {"weight_block_size": [128]}),
    "config_groups [1], not an object": (SCALED, {"config_groups": [1]}),
    "config_groups.g 1, not an object": (SCALED, {"config_groups": {"g": 1}}),
    "block_structure {}, not two": (SCALED, {"config_groups": {"g": {"weights": {"block_structure": {}}}}}),
    "num_bits '8', not a whole": (GROUPED, {"config_groups": {"g": {"weights": {"num_bits": "8"}}}}),
    "group_size [64], not a whole": (GROUPED, {"config_groups": {"g": {"weights": {"group_size": [64]}}}}),
    "group_size '64', not a whole": (
        {"qweight": words(8, 32), "qzeros": words(1, 4), "scales": torch.ones(1, 32)}, {"group_size": "64"}),
}  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_a_config_that_says_what_cannot_be_is_refused_by_its_key(said: str) -> None:
    parts, config = SAID[said]
    with pytest.raises(StageError, match=re.escape(f"its config says {said}")) as refused:
        dequantised(parts, config, "lm_head.weight")
    assert "correct its config.json" in str(refused.value.hint)
    assert dequantised({"weight": matrix()}, config, "lm_head.weight").shape == (ROWS, COLUMNS)  # unread


def test_seven_bits_are_not_taken_for_eight() -> None:
    """Both take a word for four numbers; only the config tells them apart."""
    parts = {
        "weight_packed": words(8, 16),
        "weight_shape": torch.tensor([8, 64]),
        "weight_scale": torch.ones(8, 1),
    }
    config = {"config_groups": {"group_0": {"weights": {"num_bits": 7}}}}
    with pytest.raises(StageError, match=r"bits: \[7\]"):
        dequantised(parts, config, "lm_head.weight")


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
