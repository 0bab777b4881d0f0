"""vLLM as an engine, on GPUs and CPUs. Importing this does not import vLLM."""

from __future__ import annotations

from .engine import VllmEngine

__all__ = ["VllmEngine"]
