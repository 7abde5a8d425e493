"""What a verifier's weight files hold, as their headers list it, without the files.

A config tells the shape of a model, not how it is stored: gpt-oss keeps its experts in four bits, so that
weights of 117 billion parameters take 65 GB.  Sizes that ``plan`` and ``doctor`` say before anything is
fetched rest on the headers, which are committed with the facts of each verifier (``verifier_facts``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: Bytes of one element, by the names that the safetensors format gives.
ELEMENT_BYTES = {"BF16": 2, "U8": 1}

#: Ends of names in MXFP4 (Open Compute Project, Microscaling Formats 1.0): a byte of a block holds two
#: values, and every 32 of them share a scale of one byte.
PACKED, SCALES = "_blocks", "_scales"
VALUES_A_BYTE = 2


class Header(NamedTuple):
    """``copies`` tensors of one type and shape; a ``*`` of the name stands for a layer or an expert."""

    name: str
    copies: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return self.copies * math.prod(self.shape)

    @property
    def parameters(self) -> int:
        if self.name.endswith(SCALES):
            return 0
        return self.elements * (VALUES_A_BYTE if self.name.endswith(PACKED) else 1)

    @property
    def bytes(self) -> int:
        return self.elements * ELEMENT_BYTES[self.dtype]


def headers_of(document: Mapping[str, Any]) -> list[Header]:
    """The headers of a committed document of facts; none where none are committed."""
    rows: Iterable[Any] = document.get("tensors", {}).get("headers", ())
    return [Header(name, copies, dtype, tuple(shape)) for name, copies, dtype, shape in rows]


def sizes(headers: Iterable[Header]) -> dict[str, int]:
    """``parameters`` and ``weights_bytes`` of all of them, as ``VerifierFacts`` has them."""
    kept = list(headers)
    return {
        "parameters": sum(one.parameters for one in kept),
        "weights_bytes": sum(one.bytes for one in kept),
    }
