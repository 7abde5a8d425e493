"""Names of what a training leaves: who reads it need not know how it was made."""

from __future__ import annotations

DRAFT_NAME = "draft.safetensors"  # trained tensors, float32, checkpoint names, without the frozen ends
VOCABULARY_NAME = "vocabulary.safetensors"  # draft_ids [Vd] int64
ENDS_NAME = "ends.safetensors"  # a head or embedding of the draft's own; no file without any
SHAPE_NAME = "shape.json"  # the draft's config record
METRICS_NAME = "metrics.jsonl"
