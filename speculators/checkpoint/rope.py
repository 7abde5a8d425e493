"""The rotary embedding that a config asks for, in one spelling.

transformers 5 writes one ``rope_parameters`` (or one for each kind of attention layer); older
configs write ``rope_theta``, ``rope_scaling`` and ``partial_rotary_factor`` apart, with ``type`` for
``rope_type``.  Reading the one layout where the other was written silently gives base 10000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_THETA = 10000.0  # what transformers and vLLM take where nothing is written

#: Kind of attention layer whose rotary embedding a draft takes over: drafts attend to everything.
FULL = "full_attention"

#: A draft reads text only, which turns all sections by the same position.
MULTIMODAL = {"mrope_section", "mrope_interleaved"}

#: Older names of kinds: of text alone, every section of a multimodal one turns as the default does.
OLD_KINDS = {"mrope": "default", "su": "longrope"}

#: Kinds that stretch the length a model was trained at, and where that length is written.
STRETCHING = ("llama3", "yarn", "longrope")
ORIGINAL = "original_max_position_embeddings"

#: Values that a config leaves out because they change nothing.
NEUTRAL = {"partial_rotary_factor": 1.0}


def rope_parameters(text: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_type``, ``rope_theta`` and whatever else turns the angles, of a decoder's config.

    What is null is unsaid.  The original length of a stretching kind is taken as vLLM takes it
    (``patch_rope_parameters``, by transformers' ``standardize_rope_params``): beside the block before inside
    it, else ``max_position_embeddings``; where each kind of layer has its block, not from beside them.
    """
    said = without_nulls(text)
    written, nested = said.get("rope_parameters"), {}
    if isinstance(written, Mapping) and written:
        nested = {kind: one for kind, one in written.items() if isinstance(one, Mapping)}
        found = nested.get(FULL) or next(iter(nested.values())) if nested else written
    else:
        found = dict(said.get("rope_scaling") or {})
    found = without_nulls(found)
    old_name = found.pop("type", "default")
    kind = found.get("rope_type", old_name)
    found["rope_type"] = OLD_KINDS.get(kind, kind) if isinstance(kind, str) else kind
    found.setdefault("rope_theta", said.get("rope_theta", DEFAULT_THETA))
    for name in ("partial_rotary_factor", "rotary_pct"):
        if name in said:
            found.setdefault("partial_rotary_factor", said[name])
    if found["rope_type"] in STRETCHING:
        beside = {} if nested else said
        length = beside.get(ORIGINAL, found.get(ORIGINAL, said.get("max_position_embeddings")))
        found |= without_nulls({ORIGINAL: length})
    return found


def without_nulls(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if value is not None}


def rope_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two ``rope_parameters``, as "name: this against that"."""
    differences = []
    for name in sorted((one.keys() | other.keys()) - MULTIMODAL):
        this, that = (side.get(name, NEUTRAL.get(name)) for side in (one, other))
        if this != that:
            differences.append(f"{name}: {this} against {that}")
    return differences
