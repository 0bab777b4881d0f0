"""Tasks that are nothing but a seed, for environments that make their episodes from one."""

from __future__ import annotations

from ..types import Task
from .arithmetic import DEFAULT_SIZE
from .base import HELDOUT, TaskSet, canonical_split


class TasksOnDemand(TaskSet):
    """A set of `size` tasks of which each is made when it is asked for; by default a large train
    split and a thousand held-out tasks."""

    def __init__(self, name: str, *, split: str = "train", size: int | None = None) -> None:
        self.name, self.split = name, canonical_split(split)
        self.size = DEFAULT_SIZE[self.split] if size is None else size
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {size}")

    def __len__(self) -> int:
        return self.size


class SeedTasks(TasksOnDemand):
    """Task `i` of the train split holds the seed `2i`, of the held-out split `2i + 1`.

    So no seed is in both; whether two seeds give different episodes is the environment's
    affair. The prompt is empty: what is asked is known only when the episode begins.
    """

    def task(self, index: int) -> Task:
        seed = 2 * index + (self.split == HELDOUT)
        id = f"{self.name}/{self.split}/{index}"
        return Task(id, (), split=self.split, metadata={"seed": seed})
