"""Rotary position embedding: the variants that drafts are served with.

Names and keys are those of a config's ``rope_parameters``; the formulas are transformers'
(``modeling_rope_utils.py``) and vLLM's (``layers/rotary_embedding``), which agree on these kinds.
A draft that were trained with other angles than it is served with would lose acceptance without any
error, so a kind that is not listed is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from speculators.errors import StageError

Parameters = Mapping[str, Any]


class Rope(nn.Module):
    """Angles of a kind: position p turns pair i by ``p * frequencies[i]``; cos and sin grow by ``scale``.

    ``frequencies`` [D/2] are float64 and rest on the draft's device: copied there in every step, they would
    make the host wait for all that the device has still to do.
    """

    frequencies: torch.Tensor

    def __init__(self, frequencies: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.scale = scale

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Rope:
        """Go to a draft's new device, never to its new dtype: rounded frequencies turn far tokens wrongly."""
        self.frequencies = self.frequencies.to(fn(self.frequencies).device)
        return self

    @classmethod
    def of(cls, parameters: Parameters, head_dim: int) -> Rope:
        """Of a config's ``rope_parameters`` and heads of ``head_dim`` features.

        Raises:
            StageError: a kind, or a rotation of only some features, that is not computed here.
        """
        kind = parameters.get("rope_type", "default")
        partial = parameters.get("partial_rotary_factor", 1.0)
        if kind not in KINDS or partial != 1.0 or "mrope_section" in parameters:
            raise StageError(
                f"RoPE of a draft: kind {kind!r} with {dict(parameters)} is not computed here",
                hint=f"known kinds are {', '.join(KINDS)}, turning all features of a head",
                rule="rope-kind",
            )
        exponents = torch.arange(head_dim // 2, dtype=torch.float64) / (head_dim // 2)  # [D/2]
        return KINDS[kind](float(parameters["rope_theta"]) ** -exponents, parameters)

    def tables(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions [T], each [T, 1, D/2]; computed at least in float32."""
        exact = torch.promote_types(dtype, torch.float32)
        frequencies = self.frequencies.to(exact)  # [D/2]
        angles = positions.to(exact)[:, None, None] * frequencies  # [T, 1, D/2]
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        return cos.to(dtype), sin.to(dtype)


def _default(frequencies: torch.Tensor, parameters: Parameters) -> Rope:
    """Su et al., "RoFormer" (arXiv 2104.09864)."""
    return Rope(frequencies, 1.0)


def _linear(frequencies: torch.Tensor, parameters: Parameters) -> Rope:
    """Positions squeezed by ``factor`` (Chen et al., arXiv 2306.15595)."""
    return Rope(frequencies / parameters["factor"], 1.0)


def _llama3(frequencies: torch.Tensor, parameters: Parameters) -> Rope:
    """Long waves squeezed, short ones kept, a ramp over the number of turns between (Llama 3.1)."""
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    turns = parameters["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # [D/2]
    # With low == high there is no ramp: a step at that number of turns.
    kept = ((turns - low) / (high - low)).clamp(0, 1) if high != low else (turns > high).to(turns.dtype)
    return Rope(frequencies * (kept + (1 - kept) / parameters["factor"]), 1.0)


def _yarn(frequencies: torch.Tensor, parameters: Parameters) -> Rope:
    """YaRN (Peng et al., arXiv 2309.00071): a ramp over the features, and sharper attention."""
    factor, pairs = parameters["factor"], len(frequencies)
    theta, length = parameters["rope_theta"], parameters["original_max_position_embeddings"]

    def feature(turns: float) -> float:
        """The (fractional) pair that makes ``turns`` full turns over the original length."""
        return pairs * math.log(length / (turns * 2 * math.pi)) / math.log(theta)

    first, last = feature(parameters.get("beta_fast") or 32), feature(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    ramp = torch.arange(pairs, dtype=frequencies.dtype) - first
    squeezed = (ramp / ((last - first) or 0.001)).clamp(0, 1)  # [D/2]
    return Rope(frequencies * (1 - squeezed + squeezed / factor), _yarn_scale(parameters))


def _yarn_scale(parameters: Parameters) -> float:
    """How much cos and sin grow; queries and keys both do, so scores grow by its square."""

    def grown(weight: float) -> float:
        return 1.0 if parameters["factor"] <= 1 else 0.1 * weight * math.log(parameters["factor"]) + 1.0

    given = parameters.get("attention_factor")
    if given is not None:
        return float(given)
    over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return grown(over) / grown(under) if over and under else grown(1.0)


KINDS: dict[str, Callable[[torch.Tensor, Parameters], Rope]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn pairs (i, i + D/2) of x [T, heads, D] ("neox" pairing, as Llama and vLLM): same shape."""
    first, second = x.chunk(2, dim=-1)  # [T, heads, D/2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
