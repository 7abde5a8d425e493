"""One matrix of a quantised checkpoint as floating point again.

Quantisers leave embedding, norm and head alone as a rule; where a head is quantised all the same, a
draft must be taught by the numbers that the engine will compute with.  The stored parts tell the
scheme by their names and types; the config adds only what they leave open (bits, group order).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from speculators.errors import StageError

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
POWERS = (torch.uint8, torch.float8_e8m0fnu)  # a scale that is a power of two: E8M0, as bytes or by its type
PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

#: Names of a module's tensors that belong to its weight; activation scales are not needed here.
PARTS = (
    "weight", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale",
    "weight_zero_point", "weight_packed", "weight_shape", "weight_g_idx", "qweight", "qzeros",
    "scales", "g_idx",
)  # fmt: skip

#: Those that no plain module has.
QUANTISED = frozenset(PARTS) - {"weight"}

#: Where in an int32 of AWQ's packing each of its eight columns lies.
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)

#: The sixteen values of a 4-bit float E2M1 by code.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
WORD_BITS = (2, 4, 8)  # of numbers that fill an int32
NVFP4_GROUP = 16
MX_GROUP = 32  # numbers along K that share a scale, of all OCP Microscaling formats

Parts = Mapping[str, torch.Tensor]


def dequantised(parts: Parts, quantisation: Mapping[str, Any], name: str) -> torch.Tensor:
    """The weight [N, K] that ``parts`` of the module ``name`` store, in float32 unless it was plain.

    ``parts``: by their names within the module (``PARTS``); ``quantisation``: the config's
    ``quantization_config``, empty where there is none.

    Raises:
        StageError: the scheme is not known, or the parts do not fit together.
    """
    weight = parts.get("weight")
    if weight is not None and weight.dtype in PLAIN:
        return weight
    stored = ", ".join(
        f"{part} {tensor.dtype} {list(tensor.shape)}" for part, tensor in sorted(parts.items())
    )
    problem = "in a way that is not known"
    try:
        if not isinstance(quantisation, Mapping):
            raise meant("quantization_config", quantisation, "an object")
        for known, read in SCHEMES:
            if known(parts):
                return read(parts, quantisation)
    except (ValueError, KeyError, IndexError, RuntimeError) as error:  # torch's of shapes that do not fit
        problem = f"so that it cannot be read ({str(error).splitlines()[0]})"
    raise StageError(
        f"{name} is stored {problem}: {stored}",
        hint="use a verifier whose embedding, norm and head are not quantised, or correct its config.json",
        rule="verifier-weights",
    )


def quantised_names(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that tell of quantised modules."""
    return sorted(name for name in names if name.rpartition(".")[2] in QUANTISED)


def scaled(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """8-bit values times a scale for the whole, for each row, group or block (FP8, INT8, MXFP8)."""
    values = parts["weight"].float()  # [N, K]
    if (zero := parts.get("weight_zero_point")) is not None:
        values = values - spread(zero.float(), values)
    scale = scale_of(parts)
    block = (1, MX_GROUP) if scale.dtype == torch.uint8 else block_of(quantisation)
    return values * spread(as_numbers(scale), values, block)


def scale_of(parts: Parts) -> torch.Tensor:
    return parts["weight_scale_inv"] if "weight_scale_inv" in parts else parts["weight_scale"]


def as_numbers(scale: torch.Tensor) -> torch.Tensor:
    """A scale in float32; bytes are E8M0 (OCP Microscaling 1.0, 5.4.1): 2 ** (s - 127), and 255 no number."""
    return (scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale).float()


def block_of(quantisation: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Rows and columns that share a scale, where the config says one such block.

    Raises:
        ValueError: what it says is no block.
    """
    own = quantisation.get("weight_block_size")
    key = "weight_block_size" if own else "block_structure"
    blocks = [own] if own else said_of_weights(quantisation, key)
    for block in blocks:
        if not isinstance(block, list) or len(block) != 2 or any(type(size) is not int for size in block):
            raise meant(key, block, "two whole numbers")
    found = {tuple(block) for block in blocks}
    return found.pop() if len(found) == 1 else None


def said_of_weights(quantisation: Mapping[str, Any], key: str) -> list[Any]:
    """The values of ``key`` in compressed-tensors' groups of layers.

    Raises:
        ValueError: what the config says is no such group.
    """
    groups = quantisation.get("config_groups") or {}
    if not isinstance(groups, Mapping):
        raise meant("config_groups", groups, "an object of groups")
    values = []
    for name, group in groups.items():
        weights = group.get("weights") or {} if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            raise meant(f"config_groups.{name}", group, "an object with an object of weights")
        values.append(weights.get(key))
    return [value for value in values if value is not None]


def whole_numbers(key: str, *values: Any) -> set[int]:
    """``values`` that the config has for ``key``, without those that are null.

    Raises:
        ValueError: one is no whole number.
    """
    said = [value for value in values if value is not None]
    for value in said:
        if type(value) is not int:
            raise meant(key, value, "a whole number")
    return set(said)


def meant(key: str, value: Any, wanted: str) -> ValueError:
    """The complaint about a value of the config's."""
    return ValueError(f"its config says {key} {reprlib.repr(value)}, not {wanted}")


def spread(scale: torch.Tensor, values: torch.Tensor, block: tuple[int, ...] | None = None) -> torch.Tensor:
    """A scale of one number, [N], [N, 1], [N, groups] or [blocks, blocks] over ``values`` [N, K].

    Raises:
        ValueError: how many numbers share a scale is not known.
    """
    if scale.numel() == 1:
        return scale.reshape(1, 1).expand_as(values)
    if scale.dim() == 1:
        scale = scale[:, None]  # [N, 1]
    for axis, size in enumerate(values.shape):
        each = group_size(size, scale.shape[axis], block[axis] if block else None)
        scale = scale.repeat_interleave(each, dim=axis).narrow(axis, 0, size)
    return scale  # [N, K]


def group_size(numbers: int, groups: int, said: int | None) -> int:
    """How many of ``numbers`` share a scale: as ``said``, if that gives so many groups, or an even part.

    Raises:
        ValueError: neither; then the last group is smaller, and nothing says by how much.
    """
    if said and said > 0 and -(-numbers // said) == groups:
        return said
    if numbers % groups:
        raise ValueError(f"{groups} scales for {numbers} numbers, and no size of their groups")
    return numbers // groups


def unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned numbers out of int32 words, lowest bits first: [N, W] -> [N, W * 32 / bits] int32.

    Raises:
        ValueError: numbers of so many bits do not fill a word.
    """
    if bits not in WORD_BITS:
        raise ValueError(f"{bits} bits a number")
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.flatten(-2)


def pack_quantised(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """compressed-tensors ``pack-quantized``: whole numbers offset by half their range, along K."""
    rows, columns = (int(size) for size in parts["weight_shape"])
    bits = packed_bits(parts["weight_packed"], columns, quantisation)
    half = 1 << (bits - 1)
    values = unpacked(parts["weight_packed"], bits)[:, :columns] - half  # [N, K]
    scale = parts["weight_scale"].float()  # [N, groups] or [N, 1]
    zero = torch.zeros(())
    if (packed_zero := parts.get("weight_zero_point")) is not None:
        zero = unpacked(packed_zero.T.contiguous(), bits).T[:rows].float() - half  # packed along N
    group = parts.get("weight_g_idx")
    if group is not None and bool((group >= 0).all()):  # activation order: columns of a group lie apart
        return (values.float() - take(zero, group)) * scale[:, group.long()]
    sizes = whole_numbers("group_size", *said_of_weights(quantisation, "group_size"))
    block = (1, sizes.pop()) if len(sizes) == 1 else None
    return (values.float() - spread(zero, values, block)) * spread(scale, values, block)


def take(zero: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    return zero[:, group.long()] if zero.dim() else zero


def packed_bits(packed: torch.Tensor, columns: int, quantisation: Mapping[str, Any]) -> int:
    """Bits a number, from how many words a row takes.

    Raises:
        ValueError: it is none of ``WORD_BITS``, or the config knows no layers of so many.
    """
    said = whole_numbers("num_bits", *said_of_weights(quantisation, "num_bits"))
    for bits in WORD_BITS:
        if packed.shape[1] == -(-columns * bits // 32) and bits in (said or WORD_BITS):
            return bits
    raise ValueError(
        f"{columns} numbers in {packed.shape[1]} words a row, bits: {sorted(said) or 'not said'}"
    )


def gptq(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """GPTQ: [K, N] packed along K; zero points packed along N, stored one too low in format 1."""
    qzeros, scales = parts["qzeros"], parts["scales"].float()  # [groups, N * bits / 32], [groups, N]
    bits, rest = divmod(qzeros.shape[1] * 32, scales.shape[1])  # the config's may be another layer's
    if rest:
        raise ValueError(f"zero points of {scales.shape[1]} columns in {qzeros.shape[1]} words")
    numbers = unpacked(parts["qweight"].T.contiguous(), bits).T  # [K, N]
    zeros = unpacked(qzeros, bits)  # [groups, N]
    if quantisation.get("checkpoint_format") != "gptq_v2":
        zeros = zeros + 1
    said = whole_numbers("group_size", quantisation.get("group_size"))
    group = parts["g_idx"].long() if "g_idx" in parts else groups_along(numbers, scales, said)  # [K]
    return ((numbers - zeros[group]) * scales[group]).T.contiguous()  # [N, K]


def groups_along(numbers: torch.Tensor, scales: torch.Tensor, said: set[int]) -> torch.Tensor:
    """Which row of ``scales`` [groups, N] each row of ``numbers`` [K, N] has: [K]."""
    return torch.arange(len(numbers)) // group_size(len(numbers), len(scales), next(iter(said), None))


def awq(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """AWQ: [K, N] packed along N in a permuted order of four bits."""
    numbers, zeros = (
        unpacked(parts[part], 4).unflatten(-1, (-1, 8))[..., AWQ_PLACES].flatten(-2)
        for part in ("qweight", "qzeros")
    )  # [K, N], [groups, N]
    said = whole_numbers("group_size", quantisation.get("group_size", quantisation.get("q_group_size")))
    group = groups_along(numbers, zeros, said)  # [K]
    return ((numbers - zeros[group]) * parts["scales"].float()[group]).T.contiguous()  # [N, K]


def nvfp4(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """4-bit floats, two a byte, with an FP8 scale for sixteen and one scale for all."""
    # ModelOpt stores the whole's scale, compressed-tensors its inverse.
    whole = parts["weight_scale_2"] if "weight_scale_2" in parts else 1 / parts["weight_global_scale"]
    return grouped_e2m1(parts, parts["weight_scale"].float() * whole.float(), NVFP4_GROUP)


def mxfp4(parts: Parts, quantisation: Mapping[str, Any]) -> torch.Tensor:
    """4-bit floats, two a byte, with a power of two for thirty-two (OCP Microscaling 1.0)."""
    return grouped_e2m1(parts, as_numbers(parts["weight_scale"]), MX_GROUP)


def grouped_e2m1(parts: Parts, scale: torch.Tensor, group: int) -> torch.Tensor:
    """Packed codes [N, K / 2], the lower half of a byte first, times ``scale`` [N, K / group]."""
    packed = packed_bytes(parts)
    codes = torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)  # [N, K]
    values = torch.tensor(E2M1)[codes.long()]
    return values * spread(scale, values, (1, group))


def packed_bytes(parts: Parts) -> torch.Tensor:
    return parts["weight_packed"] if "weight_packed" in parts else parts["weight"]


def has_groups(numbers: int, scale: torch.Tensor, group: int) -> bool:
    """Whether ``scale`` [N, groups] has one for every ``group`` of so many numbers a row."""
    return tuple(scale.shape[1:]) == (-(-numbers // group),)


def is_scaled(parts: Parts) -> bool:
    stored = parts.get("weight")
    if stored is None or not parts.keys() & {"weight_scale", "weight_scale_inv"}:
        return False
    scale = scale_of(parts)
    if scale.dtype == torch.uint8:  # MXFP8
        return stored.dtype in FLOAT8 and has_groups(stored.shape[-1], scale, MX_GROUP)
    return stored.dtype in (*FLOAT8, torch.int8) and scale.dtype in (*PLAIN, torch.float8_e8m0fnu)


def is_pack_quantised(parts: Parts) -> bool:
    packed = parts.get("weight_packed")
    return packed is not None and packed.dtype == torch.int32 and "weight_shape" in parts


def is_nvfp4(parts: Parts) -> bool:
    whole = "weight_scale_2" in parts or "weight_global_scale" in parts
    return whole and is_e2m1(parts, (*PLAIN, *FLOAT8), NVFP4_GROUP)


def is_mxfp4(parts: Parts) -> bool:
    whole = "weight_scale_2" in parts or "weight_global_scale" in parts
    return not whole and is_e2m1(parts, POWERS, MX_GROUP)


def is_e2m1(parts: Parts, scales: tuple[torch.dtype, ...], group: int) -> bool:
    """Two codes a byte and a scale of such a type for every ``group``: the sizes tell 4 bits from 6."""
    packed, scale = parts.get("weight_packed", parts.get("weight")), parts.get("weight_scale")
    if packed is None or scale is None or packed.dtype != torch.uint8 or scale.dtype not in scales:
        return False
    return has_groups(2 * packed.shape[-1], scale, group)


def is_awq(parts: Parts) -> bool:
    """Packed along N: the packed matrix has an eighth of the scales' columns."""
    return (
        "qweight" in parts and "scales" in parts and parts["qweight"].shape[1] * 8 == parts["scales"].shape[1]
    )


def is_gptq(parts: Parts) -> bool:
    return "qweight" in parts and "scales" in parts and parts["qweight"].shape[1] == parts["scales"].shape[1]


#: Asked in this order.
SCHEMES: tuple[tuple[Callable[[Parts], bool], Callable[[Parts, Mapping[str, Any]], torch.Tensor]], ...] = (
    (is_scaled, scaled),
    (is_pack_quantised, pack_quantised),
    (is_nvfp4, nvfp4),
    (is_mxfp4, mxfp4),
    (is_awq, awq),
    (is_gptq, gptq),
)
