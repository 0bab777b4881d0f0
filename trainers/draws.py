"""Which tasks a training step plays: epoch after epoch, or as a curriculum says.

Both draw the same tasks in every run of the same configuration, and say in `state_dict` how
far they are, so that a resumed run goes on with the task that comes next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..agents.seeding import derive_seed
from ..envs.curriculum import Controller, Feedback, controller_class, make_controller
from ..envs.tasks import LevelledTasks, TaskSet
from ..envs.types import Group, Task


class TaskStream(ABC):
    """Tasks without end."""

    @abstractmethod
    def draw(self, count: int) -> list[Task]:
        """The next tasks."""

    def hear(self, groups: Sequence[Group]) -> dict[str, float]:
        """Take in how the groups of a step went; metrics to log."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Epochs(TaskStream):
    """Epoch after epoch, each in an order of its own."""

    def __init__(self, tasks: Sequence[Task] | TaskSet, seed: int) -> None:
        self.tasks, self.seed = tasks, seed
        self.cursor = 0

    def draw(self, count: int) -> list[Task]:
        drawn = []
        for _ in range(count):
            epoch, position = divmod(self.cursor, len(self.tasks))
            drawn.append(self.tasks[self._order(epoch)[position]])
            self.cursor += 1
        return drawn

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cursor = state["cursor"]

    def _order(self, epoch: int) -> Sequence[int]:
        if getattr(self, "_epoch", None) != epoch:
            rng = np.random.default_rng(derive_seed(self.seed, "order", epoch))
            self._epoch, self._permutation = epoch, rng.permutation(len(self.tasks)).tolist()
        return cast(list[int], self._permutation)


class Curriculum(TaskStream):
    """Levels chosen by a controller, and within each its own epochs.

    A reward counts with its part in [0, 1]. What is drawn depends on the configuration and
    on what was heard before, on nothing else.
    """

    def __init__(self, tasks: LevelledTasks, controller: Controller, seed: int) -> None:
        self.controller, self.seed = controller, seed
        self.levels = [
            Epochs(_Level(tasks, number), derive_seed(seed, "level", number))
            for number in range(len(tasks.levels))
        ]
        self.drawn = 0

    def draw(self, count: int) -> list[Task]:
        tasks = []
        for _ in range(count):
            rng = np.random.default_rng(derive_seed(self.seed, "curriculum", self.drawn))
            tasks += self.levels[self.controller.sample(rng)].draw(1)
            self.drawn += 1
        return tasks

    def hear(self, groups: Sequence[Group]) -> dict[str, float]:
        feedback = []
        for group in groups:
            rewards = [t.reward for t in group.trajectories if t.reward is not None]
            if rewards and group.task.difficulty is not None:
                clipped = tuple(min(max(reward, 0.0), 1.0) for reward in rewards)
                feedback.append(Feedback(int(group.task.difficulty), clipped))
        self.controller.update(feedback)
        metrics = {"curriculum/difficulty": self.controller.difficulty}
        if feedback:
            played = [entry.level for entry in feedback]
            metrics["curriculum/played"] = float(np.mean(played))
            metrics["curriculum/score"] = float(np.mean([entry.mean for entry in feedback]))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "drawn": self.drawn,
            "levels": [level.state_dict() for level in self.levels],
            "controller": self.controller.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = state["drawn"]
        for level, own in zip(self.levels, state["levels"], strict=True):
            level.load_state_dict(own)
        self.controller.load_state_dict(state["controller"])


class _Level(Sequence[Task]):
    """One level of a levelled set, its tasks marked with it."""

    def __init__(self, tasks: LevelledTasks, level: int) -> None:
        self._tasks, self._level = tasks, level

    def __len__(self) -> int:
        return len(self._tasks.levels[self._level])

    def __getitem__(self, index: Any) -> Any:
        return self._tasks.at(self._level, index)


def task_stream(
    tasks: Sequence[Task] | TaskSet, seed: int, curriculum: str, options: Mapping[str, Any]
) -> TaskStream:
    """The stream of a run; `curriculum` is a name in `CONTROLLERS`, or empty for none.

    Raises:
        ValueError: an unknown curriculum or option, or tasks that have no levels.
    """
    if not curriculum:
        return Epochs(tasks, seed)
    controller_class(curriculum)
    if not isinstance(tasks, LevelledTasks):
        raise ValueError(
            f"curriculum {curriculum!r} needs tasks with levels, got {tasks!r:.80}: load them "
            f'with load_tasks("levels", ...), or give the environment a list of levels'
        )
    return Curriculum(tasks, make_controller(curriculum, len(tasks.levels), **options), seed)
