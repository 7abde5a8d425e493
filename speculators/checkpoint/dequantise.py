"""One matrix of a quantised checkpoint as floating point again.

Quantisers leave embedding, norm and head alone as a rule; where a head is quantised all the same, a
draft must be taught by the numbers that the engine will compute with.  The stored parts tell the
scheme by their names and types; the config adds only what they leave open (bits, group order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from speculators.errors import StageError

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

#: Names of a module's tensors that belong to its weight; activation scales are not needed here.
PARTS = (
    "weight", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale",
    "weight_zero_point", "weight_packed", "weight_shape", "weight_g_idx", "qweight", "qzeros",
    "scales", "g_idx",
)  # fmt: skip

#: Where in an int32 of AWQ's packing each of its eight columns lies.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)

#: The sixteen values of a 4-bit float E2M1 by code.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
NVFP4_GROUP = 16

Parts = Mapping[str, torch.Tensor]


def dequantised(parts: Parts, quantisation: Mapping[str, Any], name: str) -> torch.Tensor:
    """The weight [N, K] that ``parts`` of the module ``name`` store, in float32 unless it was plain.

    ``parts``: by their names within the module (``PARTS``); ``quantisation``: the config's
    ``quantization_config``, empty where there is none.

    Raises:
        StageError: the scheme is not known.
    """
    weight = parts.get("weight")
    if weight is not None and weight.dtype in PLAIN:
        return weight
    for known, read in SCHEMES:
        if known(parts):
            return read(parts, quantisation)
    stored = ", ".join(f"{part} {tensor.dtype}" for part, tensor in sorted(parts.items()))
    raise StageError(
        f"{name} is stored in a way that is not known: {stored}",
        hint="use a verifier whose embedding, norm and head are not quantised",
        rule="verifier-weights",
    )


def scaled(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """8-bit values times a scale for the whole, for each row, group or block (FP8, INT8)."""
    values = parts["weight"].float()  # [N, K]
    if (zero := parts.get("weight_zero_point")) is not None:
        values = values - spread(zero.float(), values)
    scale = parts["weight_scale_inv"] if "weight_scale_inv" in parts else parts["weight_scale"]
    block = quantisation.get("weight_block_size")
    return values * spread(scale.float(), values, tuple(block) if block else None)


def spread(scale: torch.Tensor, values: torch.Tensor, block: tuple[int, ...] | None = None) -> torch.Tensor:
    """A scale of one number, [N], [N, 1], [N, groups] or [blocks, blocks] over ``values`` [N, K]."""
    if scale.numel() == 1:
        return scale.reshape(1, 1).expand_as(values)
    if scale.dim() == 1:
        scale = scale[:, None]  # [N, 1]
    for axis, size in enumerate(values.shape):
        if scale.shape[axis] != size:
            each = block[axis] if block else -(-size // scale.shape[axis])
            scale = scale.repeat_interleave(each, dim=axis).narrow(axis, 0, size)
    return scale  # [N, K]


def unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned numbers out of int32 words, lowest bits first: [N, W] -> [N, W * 32 / bits] int32."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.flatten(-2)


def pack_quantised(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """compressed-tensors ``pack-quantized``: whole numbers offset by half their range, along K."""
    rows, columns = (int(size) for size in parts["weight_shape"])
    bits = packed_bits(parts["weight_packed"], columns)
    half = 1 << (bits - 1)
    values = unpacked(parts["weight_packed"], bits)[:, :columns] - half  # [N, K]
    scale = parts["weight_scale"].float()  # [N, groups] or [N, 1]
    zero = torch.zeros(())
    if (packed_zero := parts.get("weight_zero_point")) is not None:
        zero = unpacked(packed_zero.T.contiguous(), bits).T[:rows].float() - half  # packed along N
    group = parts.get("weight_g_idx")
    if group is not None and bool((group >= 0).all()):  # activation order: columns of a group lie apart
        return (values.float() - take(zero, group)) * scale[:, group.long()]
    return (values.float() - spread(zero, values)) * spread(scale, values)


def take(zero: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    return zero[:, group.long()] if zero.dim() else zero


def packed_bits(packed: torch.Tensor, columns: int) -> int:
    """Bits a number, from how many words a row takes: the smallest of 2, 4, 8 that fits."""
    return next(bits for bits in (2, 4, 8, 16) if packed.shape[1] == -(-columns * bits // 32))


def gptq(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """GPTQ: [K, N] packed along K; zero points packed along N, stored one too low in format 1."""
    bits = int(quantisation.get("bits", 4))
    numbers = unpacked(parts["qweight"].T.contiguous(), bits).T  # [K, N]
    zeros = unpacked(parts["qzeros"], bits)  # [groups, N]
    if quantisation.get("checkpoint_format") != "gptq_v2":
        zeros = zeros + 1
    size = int(quantisation.get("group_size", -1))
    size = size if size > 0 else len(numbers)
    group = parts["g_idx"].long() if "g_idx" in parts else torch.arange(len(numbers)) // size  # [K]
    return ((numbers - zeros[group]) * parts["scales"].float()[group]).T.contiguous()  # [N, K]


def awq(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """AWQ: [K, N] packed along N in a permuted order of four bits."""
    numbers, zeros = (
        unpacked(parts[part], 4).unflatten(-1, (-1, 8))[..., AWQ_PLACES].flatten(-2)
        for part in ("qweight", "qzeros")
    )  # [K, N], [groups, N]
    group = torch.arange(len(numbers)) // (len(numbers) // len(zeros))  # [K]
    return ((numbers - zeros[group]) * parts["scales"].float()[group]).T.contiguous()  # [N, K]


def nvfp4(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """4-bit floats, two a byte, with an FP8 scale for sixteen and one scale for all."""
    packed = parts["weight_packed"] if "weight_packed" in parts else parts["weight"]
    codes = torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)  # [N, K]
    values = torch.tensor(E2M1)[codes.long()]
    # ModelOpt stores the whole's scale, compressed-tensors its inverse.
    whole = parts["weight_scale_2"] if "weight_scale_2" in parts else 1 / parts["weight_global_scale"]
    scale = parts["weight_scale"].float() * whole.float()  # [N, K / 16]
    return values * scale.repeat_interleave(NVFP4_GROUP, dim=1)


def is_scaled(parts: Parts) -> bool:
    stored = parts.get("weight")
    has_scale = "weight_scale" in parts or "weight_scale_inv" in parts
    return stored is not None and stored.dtype in (*FLOAT8, torch.int8) and has_scale


def is_pack_quantised(parts: Parts) -> bool:
    packed = parts.get("weight_packed")
    return packed is not None and packed.dtype == torch.int32 and "weight_shape" in parts


def is_nvfp4(parts: Parts) -> bool:
    packed = parts.get("weight_packed", parts.get("weight"))
    whole = "weight_scale_2" in parts or "weight_global_scale" in parts
    return packed is not None and packed.dtype == torch.uint8 and "weight_scale" in parts and whole


def is_awq(parts: Parts) -> bool:
    """Packed along N: the packed matrix has an eighth of the scales' columns."""
    return "qweight" in parts and parts["qweight"].shape[1] * 8 == parts["scales"].shape[1]


def is_gptq(parts: Parts) -> bool:
    return "qweight" in parts and parts["qweight"].shape[1] == parts["scales"].shape[1]


#: Asked in this order.
SCHEMES: tuple[tuple[Callable[[Parts], bool], Callable[[Parts, Mapping[str, Any]], torch.Tensor]], ...] = (
    (is_scaled, scaled),
    (is_pack_quantised, pack_quantised),
    (is_nvfp4, nvfp4),
    (is_awq, awq),
    (is_gptq, gptq),
)
