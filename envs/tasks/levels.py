"""The same kind of task at several levels of difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..types import Task
from .base import TaskSet


class LevelledTasks(TaskSet):
    """Task sets of one split, easiest first: what a curriculum moves over.

    As a sequence it takes turns between the levels, so that any run of tasks has all of them
    in equal parts. Every task says its level in `difficulty`.

    Raises:
        ValueError: no levels, an empty one, or different splits.
    """

    def __init__(self, levels: Sequence[TaskSet]) -> None:
        if not levels or not all(map(len, levels)):
            raise ValueError("a levelled task set needs at least one level, and tasks in each")
        splits = {level.split for level in levels}
        if len(splits) > 1:
            raise ValueError(f"the levels must be of one split, got {sorted(splits)}")
        self.split = splits.pop()
        self.levels = list(levels)
        self.name = f"levels({', '.join(level.name for level in levels)})"

    def __len__(self) -> int:
        return len(self.levels) * min(map(len, self.levels))

    def task(self, index: int) -> Task:
        place, level = divmod(index, len(self.levels))
        return self.at(level, place)

    def at(self, level: int, index: int) -> Task:
        """Task `index` of one level; past its end the level starts again."""
        tasks = self.levels[level]
        return replace(tasks[index % len(tasks)], difficulty=float(level))
