"""The values an environment works with while an episode runs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

from .types import Invalid, Message, StopReason, Task, ToolResult

# (messages, replies) -> how likely a policy answers the messages with each of the replies
Ask = Callable[[Sequence[Message], Sequence[str]], Awaitable[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an environment makes of one action. `stop` ends the episode."""

    messages: tuple[Message, ...] = ()
    reward: float = 0.0
    stop: StopReason | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    correct: bool | None = None
    tool_results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict on a finished episode: the reward, its parts, and whether it is correct."""

    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    correct: bool | None = None

    @classmethod
    def of(cls, value: Any) -> Grade:
        """A number counts as correct from 1 up; a mapping of parts is summed.

        Raises:
            TypeError: what a grade or a reward returned is none of these.
        """
        if isinstance(value, Grade):
            return value
        if isinstance(value, Mapping):
            parts = {name: float(part) for name, part in value.items()}
            return cls(sum(parts.values()), parts)
        if not isinstance(value, SupportsFloat):
            raise TypeError(
                f"grade() returned {value!r:.100}: expected a number, bool, mapping of parts, "
                f"Grade or Invalid"
            )
        return cls(float(value), {}, float(value) >= 1.0)


class Failure(Exception):
    """Carries an `Invalid` from where it happened to the end of the step."""

    def __init__(self, invalid: Invalid) -> None:
        super().__init__(invalid.message)
        self.invalid = invalid


def checked(reply: Any) -> Reply:
    """What an author's `respond` gave, if it is a `Reply` with a finite reward.

    Raises:
        TypeError: it is something else.
        Failure: the reward is not finite.
    """
    if not isinstance(reply, Reply):
        raise TypeError(f"respond must return a Reply, got {reply!r:.100}")
    if not math.isfinite(reply.reward):
        text = f"the reward is {reply.reward}, not a finite number"
        raise Failure(Invalid("verifier", text))
    return reply


@dataclass(slots=True)
class Episode:
    """The state of a running episode. `memory` is the author's, deep-copied by snapshots."""

    task: Task
    seed: int | None
    messages: list[Message]
    num_turns: int = 0
    tool_results: list[ToolResult] = field(default_factory=list)
    hallucinated: int = 0
    stop: StopReason | None = None
    memory: Any = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point of an episode to return to, any number of times."""

    episode: Episode
    random_state: Any
    resources: Any = None
