"""What a controller is told, and what it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import fmean
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Feedback:
    """The outcome of one group: the level played and the rewards of its valid members.

    Rewards are in [0, 1]; truncated episodes count with what they earned, invalid ones are
    left out, and a group without a valid member is no feedback at all.
    """

    level: int
    rewards: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ValueError("feedback needs at least one reward: leave out invalid groups")
        if not all(0.0 <= reward <= 1.0 for reward in self.rewards):
            raise ValueError(f"rewards must be in [0, 1] for a curriculum, got {self.rewards}")

    @property
    def mean(self) -> float:
        return fmean(self.rewards)

    @property
    def spread(self) -> float:
        """Mean of |reward - group mean|: the L1 distance from the baseline."""
        mean = self.mean
        return fmean(abs(reward - mean) for reward in self.rewards)


@dataclass
class Controller(ABC):
    """Chooses levels 0 (easiest) to `levels - 1`. A dataclass whose fields are its whole state."""

    levels: int

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"a curriculum needs at least one level, got {self.levels}")

    def _need(self, *conditions: tuple[bool, str]) -> None:
        """Refuse settings under which the rule cannot work."""
        for holds, what in conditions:
            if not holds:
                raise ValueError(f"a {type(self).__name__} needs {what}, got {self}")

    @abstractmethod
    def sample(self, random: np.random.Generator) -> int:
        """The level of the next task."""

    @abstractmethod
    def update(self, feedback: Sequence[Feedback]) -> None:
        """Learn from the groups of one training step."""

    @property
    @abstractmethod
    def difficulty(self) -> float:
        """The expected level of the next task: what is logged and drawn."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that it remembers, as plain JSON values."""
        assert is_dataclass(self)
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        # A kept state must not change when the controller goes on.
        return {k: list(v) if isinstance(v, list) else v for k, v in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: the state is of another kind of controller, or of other levels.
        """
        own = self.state_dict()
        if state.keys() != own.keys() or state["levels"] != self.levels:
            raise ValueError(
                f"this is no state of a {type(self).__name__} with {self.levels} levels: "
                f"{sorted(state)} with {state.get('levels')} levels"
            )
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)
