"""`load_tasks`: from the name of a source to a task set."""

from __future__ import annotations

from typing import Any

from .arithmetic import ArithmeticTasks
from .base import TaskSet


def load_tasks(
    source: str, *, split: str = "train", size: int | None = None, seed: int = 0, **options: Any
) -> TaskSet:
    """Load tasks from `source`."""
    if source == "arithmetic":
        return ArithmeticTasks(split=split, size=size, seed=seed, **options)
    raise ValueError(f"unknown task source {source!r}")
