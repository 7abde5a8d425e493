"""Speculative-decoding drafts from a recipe: train, package, serve and measure them.

As a library: ``SpeculatorModel`` reads and writes checkpoints, the configs are their typed
``config.json``.  Names are looked up when they are used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speculators.checkpoint.model import SpeculatorModel
    from speculators.checkpoint.records import (
        DFlash2SpeculatorConfig,
        DFlashSpeculatorConfig,
        DSparkSpeculatorConfig,
        Eagle3SpeculatorConfig,
        EagleSpeculatorConfig,
        GreedyTokenProposalConfig,
        MTPSpeculatorConfig,
        PEagleSpeculatorConfig,
        SpeculatorModelConfig,
        SpeculatorsConfig,
        VerifierConfig,
        XPressSpeculatorConfig,
    )

__version__ = "0.1.0"

__all__ = [
    "DFlash2SpeculatorConfig",
    "DFlashSpeculatorConfig",
    "DSparkSpeculatorConfig",
    "Eagle3SpeculatorConfig",
    "EagleSpeculatorConfig",
    "GreedyTokenProposalConfig",
    "MTPSpeculatorConfig",
    "PEagleSpeculatorConfig",
    "SpeculatorModel",
    "SpeculatorModelConfig",
    "SpeculatorsConfig",
    "VerifierConfig",
    "XPressSpeculatorConfig",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "model" if name == "SpeculatorModel" else "records"
    return getattr(import_module(f"speculators.checkpoint.{room}"), name)


def __dir__() -> list[str]:
    return __all__
