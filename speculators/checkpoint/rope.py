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
OLD_KINDS = {"mrope": "default"}

#: Values that a config leaves out because they change nothing.
NEUTRAL = {"partial_rotary_factor": 1.0}


def rope_parameters(text: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_type``, ``rope_theta`` and whatever else turns the angles, of a decoder's config."""
    written = text.get("rope_parameters")
    if isinstance(written, Mapping) and written:
        nested = {kind: one for kind, one in written.items() if isinstance(one, Mapping)}
        found = dict(nested.get(FULL) or next(iter(nested.values()))) if nested else dict(written)
    else:
        found = dict(text.get("rope_scaling") or {})
    old_name = found.pop("type", None)
    kind = next((name for name in (found.get("rope_type"), old_name) if name is not None), "default")
    found["rope_type"] = OLD_KINDS.get(kind, kind) if isinstance(kind, str) else kind
    found.setdefault("rope_theta", text.get("rope_theta", DEFAULT_THETA))
    part = text.get("partial_rotary_factor", text.get("rotary_pct"))
    if part is not None:
        found.setdefault("partial_rotary_factor", part)
    return found


def rope_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two ``rope_parameters``, as "name: this against that"."""
    differences = []
    for name in sorted((one.keys() | other.keys()) - MULTIMODAL):
        this, that = (side.get(name, NEUTRAL.get(name)) for side in (one, other))
        if this != that:
            differences.append(f"{name}: {this} against {that}")
    return differences
