"""Task sets and the sources they are loaded from. Start with `load_tasks`."""

from .base import TaskList, TaskSet, check_disjoint, is_heldout
from .levels import LevelledTasks
from .loading import load_tasks
from .mixture import MixtureTasks

__all__ = [
    "LevelledTasks",
    "MixtureTasks",
    "TaskList",
    "TaskSet",
    "check_disjoint",
    "is_heldout",
    "load_tasks",
]
