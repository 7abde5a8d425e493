"""The reference's own settings of a training: all of them, and the file that it writes of a run."""

from __future__ import annotations

from typing import Any

from speculators.train.config import TrainConfig


def fields() -> dict[str, Any]:
    """Every field by its dotted name, with its default where that is plain JSON."""
    found: dict[str, Any] = {}
    for name, field in TrainConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        if inner is None:
            found[name] = field.default
        else:
            found |= {
                f"{name}.{key}": one.get_default(call_default_factory=True) for key, one in inner.items()
            }
    return {"fields": found}


def run_yaml(flags: dict[str, Any]) -> dict[str, Any]:
    """What it writes as ``run.yaml`` of a run that was started with these flags."""
    return {"text": TrainConfig.from_sources(cli=flags, argv=["train"]).dump_yaml()}
