"""What `python scripts/bench/env_steps` plays in Palestra: an echo, and guessing a number."""

from __future__ import annotations

from typing import Any

from palestra import register
from palestra.envs.core import ChatEnv
from palestra.envs.episode import Reply
from palestra.envs.types import Message, StopReason, Task

TASKS = [Task("play", (Message("user", "Begin."),))]


class Echo(ChatEnv):
    """Says what it is told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"tasks": TASKS, "max_turns": 7, **options})

    def respond(self, action: Message) -> Reply:
        return Reply((Message("user", action.content),))


class Guess(Echo):
    """A number from 1 to 50 in seven turns, as in GEM and TextArena."""

    def begin(self, task: Task) -> tuple[Message, ...]:
        self.episode.memory = int(self.np_random.integers(1, 51))
        return (Message("user", "Guess a number from 1 to 50, as \\boxed{25}."),)

    def respond(self, action: Message) -> Reply:
        _, _, rest = action.content.rpartition("\\boxed{")
        number = rest.partition("}")[0]
        if not number.isdigit():
            return Reply((Message("user", "Write your guess as \\boxed{25}."),))
        if int(number) == self.episode.memory:
            return Reply((Message("user", "Right."),), 1.0, StopReason.COMPLETED, {}, True)
        hint = "higher" if self.episode.memory > int(number) else "lower"
        return Reply((Message("user", f"You guessed {number}; the number is {hint}."),))


register("bench/Echo-v0", Echo)
register("bench/Guess-v0", Guess)
