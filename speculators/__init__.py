"""Speculative-decoding drafts from a recipe: train, package, serve and measure them."""

from __future__ import annotations

__version__ = "0.1.0"
