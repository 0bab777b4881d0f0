"""Every reasoning-gym family: `palestra/Reasoning-v0`."""

from .environment import Reasoning, reasoning_tasks

__all__ = ["Reasoning", "reasoning_tasks"]
