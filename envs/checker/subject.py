"""What is under audit, and how the checks play it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..core import Action, ChatEnv, Step, ToolEnv
from ..types import Message, Task


class Skip(Exception):
    """A check that says nothing about this environment; the text says why."""


class Fault(AssertionError):
    """What a check found wrong."""


@dataclass(frozen=True)
class Subject:
    """An environment under audit.

    Attributes:
        make: makes the environment; keyword arguments go to its constructor.
        tasks: how many tasks each check looks at.
        episodes: how many episodes are interleaved.
    """

    make: Callable[..., ChatEnv]
    tasks: int = 20
    episodes: int = 100
    _takes: dict[str, bool] = field(default_factory=dict)

    @contextmanager
    def env(self, **changes: Any) -> Iterator[ChatEnv]:
        env = self.make(**changes)
        try:
            yield env
        finally:
            env.close()

    def chosen(self, env: ChatEnv) -> list[Task]:
        """The tasks that the checks look at: spread over the whole set."""
        step = max(1, len(env.tasks) // self.tasks)
        return [env.tasks[i] for i in range(0, len(env.tasks), step)][: self.tasks]


@dataclass(frozen=True)
class Outcome:
    """An episode that came to its end."""

    reward: float
    info: dict[str, Any]
    trace: tuple[Any, ...]

    @property
    def invalid(self) -> str:
        """Why the episode is invalid; empty when it is not."""
        failure = self.info.get("failure")
        return f"{failure.kind}: {failure.message}" if failure else ""


def opened(env: ChatEnv, task: Task | None = None, seed: int = 0) -> list[Message]:
    return env.reset(seed=seed, options=None if task is None else {"task": task})[0]


def as_data(step: Step) -> tuple[Any, ...]:
    """A step as plain values that compare equal; NaN (invalid) as text. Times are left out."""
    observation, reward, ended, truncated, info = step
    told = {key: value for key, value in info.items() if key != "tool_results"}
    results = [(r.call, r.content, r.status) for r in info.get("tool_results", ())]
    value = "nan" if math.isnan(float(reward)) else float(reward)
    return [m.to_dict() for m in observation], value, ended, truncated, told, results


def finish(env: ChatEnv, actions: Sequence[Action]) -> Outcome:
    """Go on from where `env` stands; the last action is repeated until the end."""
    total, trace = 0.0, []
    for turn in range(env.max_turns + 1):
        step = env.step(actions[min(turn, len(actions) - 1)])
        trace.append(as_data(step))
        total += float(step[1])
        if step[2] or step[3]:
            return Outcome(total, step[4], tuple(trace))
    raise Fault(f"the episode goes on after max_turns ({env.max_turns}) actions")


def play(env: ChatEnv, task: Task, actions: Sequence[Action], seed: int = 0) -> Outcome:
    opened(env, task, seed)
    return finish(env, actions)


def python_call(env: ChatEnv, code: str) -> str:
    """A call of the tool `python`. Raises Skip where there is none."""
    if not isinstance(env, ToolEnv) or env.protocol is None or "python" not in env.tools:
        raise Skip("no tool named python")
    if env.protocol.inline:
        return f"```python\n{code}\n```\n"
    arguments = f'{{"code": "{code}"}}'
    return f'<tool_call>{{"name": "python", "arguments": {arguments}}}</tool_call>'
