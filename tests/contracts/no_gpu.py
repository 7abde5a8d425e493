"""Lets vLLM's CUDA code run where there is no GPU, by vLLM's own platform plug-in.

vLLM asks plug-ins before it looks for a device, and loads this one because the unpacked wheel's folder says
so (``engines.unpack``).  It names vLLM's own CUDA platform with answers for H100s (``no_gpu_platform``).
The compiled extensions of the wheel, and only those, are empty modules, but for the questions that vLLM asks
them while it is imported; they get an H100's answer.  Whatever really needs an extension fails.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

#: Operators without tensors: "can this device do ...?"
CAPABILITIES = ("cutlass_scaled_mm_supports_block_fp8", "cutlass_scaled_mm_supports_fp8")
#: Packages that some version imports, that are not installed beside our engine, and decide nothing here.
HELPERS = ("orjson",)
WHEEL = "SPECULATORS_CONTRACTS_WHEEL"


class EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports what was left out of the unpacked wheel as modules with nothing in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in self.names else None

    def exec_module(self, module: ModuleType) -> None:
        return None


def register() -> str | None:
    """What the plug-in's entry point answers: the platform's class; None where no wheel is asked."""
    if not (folder := os.environ.get(WHEEL)):
        return None
    origin = json.loads((Path(folder) / "origin.json").read_text(encoding="utf-8"))
    absent = [name for name in HELPERS if find_spec(name) is None]
    if not any(isinstance(finder, EmptyModules) for finder in sys.meta_path):
        sys.meta_path.append(EmptyModules([*origin["extensions"], *absent]))
        _answer_capabilities()
    return "tests.contracts.no_gpu_platform.H100s"


def _answer_capabilities() -> None:
    import torch

    global _library  # registrations end with their library
    _library = torch.library.Library("_C", "FRAGMENT")
    for name in CAPABILITIES:
        _library.define(f"{name}(int capability) -> bool")
        _library.impl(name, lambda capability: True, "CompositeExplicitAutograd")


_library: Any = None
