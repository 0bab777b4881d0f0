"""Mathematics with a Python tool: `palestra/MathCode-v0`."""

from .environment import MathCode

__all__ = ["MathCode"]
