"""The in-process engine: transformers causal language models on CPU or one GPU, no server."""

from __future__ import annotations

from .engine import LocalEngine

__all__ = ["LocalEngine"]
